"""Scores of many resamples at once, in which each sample counts as often as its weight.

Legend: N samples, C classes, B resamples. A weight of 2 means that the sample is drawn twice, 0
that it is not drawn: `classification_metrics` of the repeated samples gives the same numbers. NaN
where a score is undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from clip_pkg.metrics.calibration import brier_scores, log_losses
from clip_pkg.metrics.counts import Scored, ratio
from clip_pkg.metrics.ranking import in_top_k
from clip_pkg.metrics.table import METRICS, TOP_K

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class WeightedScores:
    """Scores as computed (percentages as fractions); NaN where undefined.

    scores: [B] by the names of `METRICS`, of those that are resampled.
    by_class: [C, B] by the names of `ClassScores`, each class against the rest.
    """

    scores: dict[str, Floats]
    by_class: dict[str, Floats]


RANKING = ("average_precision", "auroc")
RESAMPLED = tuple(name for name, metric in METRICS.items() if metric.is_resampled)


def weighted_scores(
    probabilities: Floats, targets: Labels, weights: Floats, names: Sequence[str] = RESAMPLED
) -> WeightedScores:
    """Metrics that are resampled, for each resample.

    Args:
        probabilities: [N, C], rows are distributions.
        targets: [N] in 0…C−1.
        weights: [N, B], whole numbers from 0, each column with a sum above 0.
        names: of the metrics. Average precision and AUROC, which take a sort by the probability of
            every class, are in `by_class` only if one of these metrics needs them.
    """
    scored = _Resamples(probabilities, targets, weights)
    return WeightedScores(
        scores={name: METRICS[name].compute(scored) for name in names}, by_class=scored.by_class
    )


class _Resamples(Scored):
    """Resamples of one set of predictions."""

    def __init__(self, probabilities: Floats, targets: Labels, weights: Floats) -> None:
        classes, predictions = probabilities.shape[1], probabilities.argmax(axis=1)
        correct = weights * (targets == predictions)[:, None]
        super().__init__(
            _sums(targets, weights, classes),
            _sums(predictions, weights, classes),
            _sums(targets, correct, classes),
        )
        self._probabilities, self._targets, self._weights = probabilities, targets, weights

    def macro(self, score: str, *, by_support: bool = False) -> Floats:
        if score in RANKING and score not in self.by_class:
            ranked = _ranking(self._probabilities, self._targets, self._weights)
            self.by_class |= dict(zip(RANKING, ranked, strict=True))
        values = self.by_class[score]
        defined = ~np.isnan(values)
        kept = np.where(defined, self._support, 0) if by_support else defined.astype(np.float64)
        return ratio((np.where(defined, values, 0) * kept).sum(axis=0), kept.sum(axis=0))

    def top_k_accuracy(self) -> Floats:
        if self._probabilities.shape[1] <= TOP_K:
            return np.full(self._weights.shape[1], np.nan)
        hits = in_top_k(self._probabilities, self._targets, TOP_K)
        return self._mean(hits.astype(np.float64))

    def log_loss(self) -> Floats:
        return self._mean(log_losses(self._probabilities, self._targets))

    def brier_score(self) -> Floats:
        return self._mean(brier_scores(self._probabilities, self._targets))

    def calibration_error(self) -> Floats:
        raise AssertionError("the expected calibration error is not resampled")

    def _mean(self, of_samples: Floats) -> Floats:
        mean: Floats = (of_samples @ self._weights) / self._total
        return mean


def _ranking(probabilities: Floats, targets: Labels, weights: Floats) -> tuple[Floats, Floats]:
    """Average precision and AUROC of each class against the rest, both [C, B].

    As `ranking.average_precision_and_auroc`, with sums of weights instead of counts.
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
        # Sums over samples, and over positives, with a higher score, and with at least this one.
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
