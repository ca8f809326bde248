"""Scores that depend on the predicted classes only, from one confusion matrix.

Legend: C classes. A score is NaN where its formula is 0/0, or where it says nothing because the
class has no samples; the caller turns NaN into None.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(
    targets: NDArray[np.int64], predictions: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Count samples by (row: true class, column: predicted class), [C, C]."""
    pairs = np.bincount(targets * classes + predictions, minlength=classes * classes)
    return pairs.reshape(classes, classes).astype(np.int64)


def recall(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """TP / (TP + FN) per class, [C]; NaN for a class without samples."""
    return _ratio(confusion.diagonal(), confusion.sum(axis=1))


def precision(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """TP / (TP + FP) per class, [C]; NaN for a class never predicted or without samples."""
    predicted = np.where(confusion.sum(axis=1) > 0, confusion.sum(axis=0), 0)
    return _ratio(confusion.diagonal(), predicted)


def f1(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """2·TP / (2·TP + FP + FN) per class, [C]; NaN for a class without samples.

    A class that has samples but is never predicted scores 0: the formula has a value there.
    """
    support = confusion.sum(axis=1)
    either = np.where(support > 0, support + confusion.sum(axis=0), 0)
    return _ratio(2 * confusion.diagonal(), either)


def specificity(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """TN / (TN + FP) per class, [C]; NaN where all samples are of the class."""
    negatives = confusion.sum() - confusion.sum(axis=1)
    false_positives = confusion.sum(axis=0) - confusion.diagonal()
    return _ratio(negatives - false_positives, negatives)


def matthews_correlation(confusion: NDArray[np.int64]) -> float:
    """Multiclass Matthews correlation in [−1, 1] (Gorodkin 2004, R_K).

    NaN when all samples, or all predictions, are of one class.
    """
    true, predicted = _totals(confusion)
    total = true.sum()
    covariance = total * float(confusion.trace()) - true @ predicted
    spread = (total**2 - true @ true) * (total**2 - predicted @ predicted)
    return float(covariance / np.sqrt(spread)) if spread > 0 else float("nan")


def cohen_kappa(confusion: NDArray[np.int64]) -> float:
    """Cohen's kappa, unweighted (Cohen 1960).

    NaN when all samples and all predictions are of one and the same class.
    """
    true, predicted = _totals(confusion)
    total = true.sum()
    by_chance = true @ predicted
    room = total**2 - by_chance
    agreed = total * float(confusion.trace())
    return float((agreed - by_chance) / room) if room > 0 else float("nan")


def _totals(confusion: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return confusion.sum(axis=1).astype(np.float64), confusion.sum(axis=0).astype(np.float64)


def _ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    result = np.full(len(denominator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
