"""Units of stored and shown scores: some in percent, as in the log, the rest as fractions."""

from __future__ import annotations

from clip_pkg.metrics.classification import ClassificationMetrics

PERCENT = frozenset({"acc", "balanced_acc", "mAP"})


def history_scores(metrics: ClassificationMetrics) -> dict[str, float | None]:
    """Return the scores as histories and summaries hold them; those in `PERCENT` times 100."""
    return {
        name: value if value is None or name not in PERCENT else 100 * value
        for name, value in metrics.scores.items()
    }
