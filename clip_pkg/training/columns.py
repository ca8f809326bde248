"""What an epoch's scores are called in `history.json`: the columns of its row."""

from __future__ import annotations

from collections.abc import Mapping

from clip_pkg.metrics.classification import classification_metrics, history_scores
from clip_pkg.metrics.ranking import top_k_accuracy
from clip_pkg.training.epoch import Evaluation
from clip_pkg.training.loss_scores import loss_columns


def test_columns(evaluation: Evaluation, weights: Mapping[str, float]) -> dict[str, float | None]:
    """Columns of the test images: those of an evaluation, and top-5, as papers on many classes say.

    `test_top_5` is a fraction like `test_top_k`, None with at most five classes.
    """
    top = top_k_accuracy(evaluation.probabilities, evaluation.targets, 5)
    return {**evaluation_columns("test", evaluation, weights), "test_top_5": top}


def evaluation_columns(
    prefix: str, evaluation: Evaluation, weights: Mapping[str, float]
) -> dict[str, float | None]:
    """Columns of one evaluation: losses, then metrics; some in percent as in the log."""
    metrics = classification_metrics(evaluation.probabilities, evaluation.targets)
    columns: dict[str, float | None] = {f"{prefix}_loss": evaluation.scores.loss}
    columns |= loss_columns(prefix, evaluation.scores, weights)
    return columns | {f"{prefix}_{name}": value for name, value in history_scores(metrics).items()}
