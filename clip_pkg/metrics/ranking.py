"""One-vs-rest scores that depend on the order of the probabilities only.

Legend: N samples, C classes. All classes are sorted at once, because these run after every epoch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def average_precision_and_auroc(
    scores: NDArray[np.float64], targets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and area under the ROC curve of each class against the rest.

    Average precision is Σ_k (R_k − R_{k−1})·P_k over the distinct scores, without interpolation;
    the area counts a tied pair of a positive and a negative as one half. Equal scores therefore
    give the same result in any order of the samples.

    Args:
        scores: [N, C], higher means more likely; finite.
        targets: [N] in 0…C−1.

    Returns:
        Average precision [C] and AUROC [C] in [0, 1]; NaN for a class without positives or
        without negatives.
    """
    n, classes = scores.shape
    by_class = np.ascontiguousarray(-scores.T)
    order = np.argsort(by_class, axis=1)
    ordered = np.take_along_axis(by_class, order, axis=1)
    positive = targets[order] == np.arange(classes)[:, None]

    changes = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((classes, 1), dtype=bool)
    rank = np.arange(n)
    first = np.maximum.accumulate(np.where(np.hstack([edge, changes]), rank, 0), axis=1)
    last_or_n = np.where(np.hstack([changes, edge]), rank, n)
    last = np.minimum.accumulate(last_or_n[:, ::-1], axis=1)[:, ::-1]

    positives = positive.sum(axis=1)
    negatives = n - positives
    hits = np.take_along_axis(np.cumsum(positive, axis=1), last, axis=1)
    precision_sum = np.where(positive, hits / (last + 1), 0.0).sum(axis=1)
    # Twice the mid-rank counted from the end, so that everything up to the division is exact.
    twice_rank_sum = np.where(positive, 2 * n - first - last, 0).sum(axis=1)
    twice_pairs_won = twice_rank_sum - positives * (positives + 1)

    defined = (positives > 0) & (negatives > 0)
    average_precision = np.full(classes, np.nan)
    auroc = np.full(classes, np.nan)
    np.divide(precision_sum, positives, out=average_precision, where=defined)
    np.divide(twice_pairs_won, 2 * positives * negatives, out=auroc, where=defined)
    return average_precision, auroc


def top_k_accuracy(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64], k: int
) -> float | None:
    """Share of samples whose class is among the k most probable; None when k covers all classes.

    Among equal probabilities the class of lower index comes first, so that k = 1 is the accuracy
    of the argmax.
    """
    if k >= probabilities.shape[1]:
        return None
    return float(in_top_k(probabilities, targets, k).mean())


def in_top_k(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64], k: int
) -> NDArray[np.bool_]:
    """Whether each sample's class is among its k most probable, [N]; ties as `top_k_accuracy`."""
    classes = probabilities.shape[1]
    own = np.take_along_axis(probabilities, targets[:, None], axis=1)
    tied_before = (probabilities == own) & (np.arange(classes) < targets[:, None])
    ahead = ((probabilities > own) | tied_before).sum(axis=1)
    within: NDArray[np.bool_] = ahead < k
    return within
