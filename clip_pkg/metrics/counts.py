"""What metrics are computed from, and the scores that depend on the predicted classes only.

Legend: N samples, C classes, B resamples. Arrays are [C], or [C, B] for many resamples at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def confusion_matrix(
    targets: NDArray[np.int64], predictions: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Count samples by (row: true class, column: predicted class), [C, C]."""
    pairs = np.bincount(targets * classes + predictions, minlength=classes * classes)
    return pairs.reshape(classes, classes).astype(np.int64)


class Scored(ABC):
    """Predictions that metrics are computed from: one set of them, or B bootstrap resamples.

    A metric is written once for both: every value is a float of one set, and an array [B] of
    resamples. It is NaN where its formula is 0/0, or a class without samples makes it meaningless.

    Attributes:
        by_class: `precision`, `recall`, `f1` and `specificity` of each class against the rest;
            subclasses add `average_precision` and `auroc`.
    """

    def __init__(self, support: Floats, predicted: Floats, hits: Floats) -> None:
        """How often each class is there, is predicted, and is predicted correctly."""
        self._support, self._predicted = support, predicted
        self._total, self._right = support.sum(axis=0), hits.sum(axis=0)
        present, negatives = support > 0, self._total - support
        precision = ratio(hits, np.where(present, predicted, 0))
        self.by_class: dict[str, Floats] = {
            # 0 for a class that is never predicted, so that ignoring a rare class never pays.
            "precision": np.where(present & (predicted == 0), 0.0, precision),
            "recall": ratio(hits, support),
            "f1": ratio(2 * hits, np.where(present, support + predicted, 0)),
            "specificity": ratio(negatives - (predicted - hits), negatives),
        }

    def accuracy(self) -> Any:
        """Share of samples whose most probable class is theirs."""
        return self._right / self._total

    def matthews_correlation(self) -> Any:
        """Multiclass Matthews correlation in [−1, 1] (Gorodkin 2004, R_K).

        NaN when all samples, or all predictions, are of one class.
        """
        covariance = self._total * self._right - _dot(self._support, self._predicted)
        spread_true = self._total**2 - _dot(self._support, self._support)
        spread_predicted = self._total**2 - _dot(self._predicted, self._predicted)
        return ratio(covariance, np.sqrt(spread_true * spread_predicted))

    def cohen_kappa(self) -> Any:
        """Cohen's kappa, unweighted (Cohen 1960).

        NaN when all samples and all predictions are of one and the same class.
        """
        chance = _dot(self._support, self._predicted)
        return ratio(self._total * self._right - chance, self._total**2 - chance)

    @abstractmethod
    def macro(self, score: str, *, by_support: bool = False) -> Any:
        """Mean of a score of `by_class` over the classes for which it is defined.

        by_support: weight each class by its number of samples.
        """

    @abstractmethod
    def top_k_accuracy(self) -> Any:
        """Share of samples whose class is among the k most probable; undefined where k ≥ C."""

    @abstractmethod
    def log_loss(self) -> Any:
        """Mean −log of the true class's probability."""

    @abstractmethod
    def brier_score(self) -> Any:
        """Mean squared error summed over classes."""

    @abstractmethod
    def calibration_error(self) -> Any:
        """Expected calibration error; of one set only."""


def _dot(first: Floats, second: Floats) -> Any:
    """Sum of products over the classes."""
    return np.einsum("c...,c...->...", first, second)


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient; NaN where the denominator is not above 0."""
    result = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
