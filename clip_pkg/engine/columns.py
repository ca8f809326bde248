"""What an epoch's scores are called in `history.json`: the columns of its row."""

from __future__ import annotations

from collections.abc import Mapping

from clip_pkg.engine.epoch import Evaluation
from clip_pkg.engine.loss_scores import loss_columns
from clip_pkg.metrics.classification import classification_metrics
from clip_pkg.metrics.units import history_scores


def evaluation_columns(
    prefix: str, evaluation: Evaluation, weights: Mapping[str, float]
) -> dict[str, float | None]:
    """Columns of one evaluation: losses, then metrics; some in percent as in the log."""
    metrics = classification_metrics(evaluation.probabilities, evaluation.targets)
    columns: dict[str, float | None] = {f"{prefix}_loss": evaluation.scores.loss}
    columns |= loss_columns(prefix, evaluation.scores, weights)
    return columns | {f"{prefix}_{name}": value for name, value in history_scores(metrics).items()}
