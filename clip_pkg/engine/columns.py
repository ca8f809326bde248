"""What an epoch's scores are called in `history.json`: the columns of its row."""

from __future__ import annotations

from collections.abc import Mapping

from clip_pkg.engine.epoch import EpochScores, Evaluation
from clip_pkg.metrics.classification import classification_metrics
from clip_pkg.metrics.units import history_scores


def loss_columns(
    prefix: str, scores: EpochScores, weights: Mapping[str, float]
) -> dict[str, float | None]:
    """Columns of the loss's parts, plain, weighted and as shares of the total; statistics.

    weights: of the parts in the total.
    """
    columns: dict[str, float | None] = {}
    for name, value in scores.parts.items():
        columns[f"{prefix}_{name}_loss"] = value
        if len(scores.parts) > 1:
            weighted = weights[name] * value
            columns[f"{prefix}_{name}_weighted"] = weighted
            columns[f"{prefix}_{name}_share"] = weighted / scores.loss if scores.loss else None
    return columns | {f"{prefix}_logits_{name}": value for name, value in scores.statistics.items()}


def evaluation_columns(
    prefix: str, evaluation: Evaluation, weights: Mapping[str, float]
) -> dict[str, float | None]:
    """Columns of one evaluation: losses, then metrics; some in percent as in the log."""
    metrics = classification_metrics(evaluation.probabilities, evaluation.targets)
    columns: dict[str, float | None] = {f"{prefix}_loss": evaluation.scores.loss}
    columns |= loss_columns(prefix, evaluation.scores, weights)
    return columns | {f"{prefix}_{name}": value for name, value in history_scores(metrics).items()}
