"""The scores of many resamples at once: each sample counts as often as its weight says.

Legend: N samples, C classes, B resamples. A weight of 2 is a sample that is there twice, 0 one that
is not, so that `classification_metrics` of the repeated samples gives the same numbers. NaN where a
score is undefined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from clip_pkg.metrics.calibration import brier_scores, log_losses
from clip_pkg.metrics.classification import SCORES, TOP_K
from clip_pkg.metrics.ranking import in_top_k

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
# Repeated samples make every bin look less calibrated than it is: a resample says nothing about it.
NOT_RESAMPLED = frozenset({"ece"})
RESAMPLED = tuple(name for name in SCORES if name not in NOT_RESAMPLED)


@dataclass(frozen=True, eq=False)
class WeightedScores:
    """Fractions; NaN where undefined.

    scores: [B] by the names of `ClassificationMetrics.scores`, without `NOT_RESAMPLED`.
    by_class: [C, B] by the names of `ClassScores`, each class against the rest.
    """

    scores: dict[str, Floats]
    by_class: dict[str, Floats]


def weighted_scores(probabilities: Floats, targets: Labels, weights: Floats) -> WeightedScores:
    """Every score of `ClassificationMetrics` but those in `NOT_RESAMPLED`, for each resample.

    Args:
        probabilities: [N, C], rows are distributions.
        targets: [N] in 0…C−1.
        weights: [N, B], whole numbers from 0, each column with a sum above 0.
    """
    classes = probabilities.shape[1]
    average_precision, auroc = _ranking(probabilities, targets, weights)
    total = weights.sum(axis=0)
    own = {"log_loss": log_losses, "brier": brier_scores}
    means = {name: (score(probabilities, targets) @ weights) / total for name, score in own.items()}
    if classes > TOP_K:
        hits = in_top_k(probabilities, targets, TOP_K).astype(np.float64)
        means["top_k"] = (hits @ weights) / total
    else:
        means["top_k"] = np.full(weights.shape[1], np.nan)
    counted, by_class = _counted(targets, probabilities.argmax(axis=1), weights, classes)
    scores = {**counted, **means, "mAP": _mean(average_precision), "auroc": _mean(auroc)}
    return WeightedScores(
        scores={name: scores[name] for name in RESAMPLED},
        by_class={**by_class, "average_precision": average_precision, "auroc": auroc},
    )


def _counted(
    targets: Labels, predictions: Labels, weights: Floats, classes: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Scores that follow from how often each class was right, there and predicted; by class."""
    support = _sums(targets, weights, classes)
    predicted = _sums(predictions, weights, classes)
    hits = _sums(targets, weights * (targets == predictions)[:, None], classes)
    total = support.sum(axis=0)
    there = support > 0
    negatives = total - support
    by_class = {
        "precision": _ratio(hits, np.where(there, predicted, 0)),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, np.where(there, support + predicted, 0)),
        "specificity": _ratio(negatives - (predicted - hits), negatives),
    }
    right = hits.sum(axis=0)
    chance = np.einsum("cb,cb->b", support, predicted)
    covariance = total * right - chance
    spread_true = total**2 - np.einsum("cb,cb->b", support, support)
    spread_predicted = total**2 - np.einsum("cb,cb->b", predicted, predicted)
    weighted = ("precision", "recall", "f1")
    scores = {
        "acc": right / total,
        "balanced_acc": _mean(by_class["recall"]),
        **{name: _mean(values) for name, values in by_class.items()},
        **{f"{name}_weighted": _mean(by_class[name], support) for name in weighted},
        "mcc": _ratio(covariance, np.sqrt(spread_true * spread_predicted)),
        "kappa": _ratio(covariance, total**2 - chance),
    }
    return scores, by_class


def _ranking(probabilities: Floats, targets: Labels, weights: Floats) -> tuple[Floats, Floats]:
    """Average precision and AUROC of each class against the rest, both [C, B].

    As `ranking.average_precision_and_auroc`, with sums of weights in the place of counts.
    """
    classes, resamples = probabilities.shape[1], weights.shape[1]
    average_precision = np.full((classes, resamples), np.nan)
    auroc = np.full((classes, resamples), np.nan)
    for label in range(classes):
        order = np.argsort(-probabilities[:, label], kind="stable")
        ordered = -probabilities[order, label]
        place = np.flatnonzero(targets[order] == label)
        first = np.searchsorted(ordered, ordered[place], side="left")
        behind = np.searchsorted(ordered, ordered[place], side="right")
        own = weights[order[place]]
        # Sums over everything, and over positives, that scored higher, and at least as high.
        sums = _running(weights[order])
        above, reached = sums[first], sums[behind]
        positive_sums = _running(own)
        positives_above = positive_sums[np.searchsorted(place, first)]
        positives_reached = positive_sums[np.searchsorted(place, behind)]

        positives = positive_sums[-1]
        negatives = sums[-1] - positives
        defined = (positives > 0) & (negatives > 0)
        precision = np.divide(
            positives_reached, reached, out=np.zeros_like(reached), where=reached > 0
        )
        precision_sum = np.einsum("nb,nb->b", own, precision)
        lost = ((above - positives_above) + (reached - positives_reached)) / 2
        pairs_won = np.einsum("nb,nb->b", own, negatives - lost)
        np.divide(precision_sum, positives, out=average_precision[label], where=defined)
        np.divide(pairs_won, positives * negatives, out=auroc[label], where=defined)
    return average_precision, auroc


def _sums(labels: Labels, weights: Floats, classes: int) -> Floats:
    """Weights of each class's samples, [C, B]."""
    count = len(labels)
    member = csr_matrix((np.ones(count), (labels, np.arange(count))), shape=(classes, count))
    sums: Floats = member @ weights
    return sums


def _running(weights: Floats) -> Floats:
    """Sum of the first 0, 1, … N rows, [N + 1, B]."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient; NaN where the denominator is not above 0."""
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _mean(values: Floats, weights: Floats | None = None) -> Floats:
    """Mean over classes, [C, B] → [B], of the defined values; NaN where there is none."""
    defined = ~np.isnan(values)
    kept = defined.astype(np.float64) if weights is None else np.where(defined, weights, 0)
    return _ratio((np.where(defined, values, 0) * kept).sum(axis=0), kept.sum(axis=0))
