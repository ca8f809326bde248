"""Curves as numbers, over epochs, thresholds and confidence, with bands over folds.

Legend: K folds, N samples, C classes, G grid points, E epochs, B bins. NaN where a value is
undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clip_pkg.metrics.calibration import confidence_bin
from clip_pkg.metrics.table import CALIBRATION_BINS
from clip_pkg.results.folders import History
from clip_pkg.study.predictions import Predictions

GRID = 201  # points at which the folds' curves are averaged
CONFIDENCE = 0.95
Z = 1.959963984540054  # of the normal distribution, for 95 %

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Band:
    """Mean ± sample SD over folds along x.

    x, mean, deviation: [G]. folds: [K, G], each fold's own curve. deviation is 0 where fewer than
    two folds have a value.
    """

    x: Floats
    folds: Floats
    mean: Floats
    deviation: Floats

    @classmethod
    def over(cls, x: Floats, folds: Floats) -> Band:
        """Average curves [K, G] over the folds that have a value at a point."""
        known = (~np.isnan(folds)).sum(axis=0)
        total = np.nansum(folds, axis=0)
        mean = np.divide(total, known, out=np.full(len(x), np.nan), where=known > 0)
        squares = np.nansum((folds - mean) ** 2, axis=0)
        variance = np.divide(squares, known - 1, out=np.zeros(len(x)), where=known > 1)
        return cls(x, folds, mean, np.sqrt(variance))


def over_epochs(histories: Sequence[History], column: str) -> Band | None:
    """Average a history column; each epoch over the folds that reached it.

    None if no fold has a value.
    """
    columns = [history.get(column, ()) for history in histories]
    epochs = max(map(len, columns), default=0)
    values = np.full((len(columns), epochs), np.nan)
    for row, column_values in zip(values, columns, strict=True):
        row[: len(column_values)] = [np.nan if v is None else v for v in column_values]
    if np.isnan(values).all():
        return None
    return Band.over(np.arange(1.0, epochs + 1), values)


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Counts at each distinct threshold, from the highest down; the first accepts no sample.

    true_positives, false_positives: [T + 1].
    """

    true_positives: Floats
    false_positives: Floats

    @classmethod
    def of(cls, scores: Floats, positive: Bools) -> Thresholds:
        """Accept samples in the order of their scores [N]; equal scores are accepted together."""
        order = np.argsort(-scores, kind="stable")
        last = np.append(np.diff(scores[order]) != 0, True)
        hits = np.cumsum(positive[order])[last]
        accepted = np.flatnonzero(last) + 1
        return cls(np.append(0.0, hits), np.append(0.0, accepted - hits))

    @property
    def true_positive_rate(self) -> Floats:
        """Recall, [T + 1] from 0 to 1."""
        rate: Floats = self.true_positives / self.true_positives[-1]
        return rate

    @property
    def false_positive_rate(self) -> Floats:
        """1 − specificity, [T + 1] from 0 to 1."""
        rate: Floats = self.false_positives / self.false_positives[-1]
        return rate

    @property
    def precision(self) -> Floats:
        """[T + 1]; 1 before anything is accepted."""
        accepted = self.true_positives + self.false_positives
        share: Floats = np.ones_like(accepted)
        np.divide(self.true_positives, accepted, out=share, where=accepted > 0)
        return share


def roc_at(grid: Floats, thresholds: Thresholds) -> Floats:
    """True positive rate at false positive rates `grid`, on straight lines between thresholds."""
    x, y = thresholds.false_positive_rate, thresholds.true_positive_rate
    # at a vertical step interp takes the upper end
    values: Floats = np.interp(grid, x, y)
    return values


def precision_at(grid: Floats, thresholds: Thresholds) -> Floats:
    """Precision where recalls `grid` are first reached: the steps that average precision sums."""
    recall = thresholds.true_positive_rate
    first = np.searchsorted(recall, grid - 1e-12, side="left")
    values: Floats = thresholds.precision[np.maximum(first, 1)]
    return values


Curve: TypeAlias = Callable[[Floats, Thresholds], Floats]


def class_curves(predictions: Predictions, curve: Curve, grid: Floats) -> Floats:
    """One-vs-rest curves [C, G]; NaN for a class with no samples or with all of them."""
    count = len(predictions.classes)
    curves = np.full((count, len(grid)), np.nan)
    for label in range(count):
        positive = predictions.targets == label
        if 0 < positive.sum() < len(positive):
            found = Thresholds.of(predictions.probabilities[:, label], positive)
            curves[label] = curve(grid, found)
    return curves


def macro_band(folds: Sequence[Predictions], curve: Curve) -> Band:
    """Mean over classes for each fold, and mean ± SD of these over folds."""
    grid = np.linspace(0.0, 1.0, GRID)
    rows = [_mean_of_defined(class_curves(fold, curve, grid)) for fold in folds]
    return Band.over(grid, np.stack(rows))


def _mean_of_defined(curves: Floats) -> Floats:
    defined = curves[~np.isnan(curves).any(axis=1)]
    mean: Floats = defined.mean(axis=0) if len(defined) else np.full(curves.shape[1], np.nan)
    return mean


@dataclass(frozen=True, eq=False)
class Reliability:
    """Accuracy by confidence; empty bins are left out.

    edges: [B + 1] of all bins. bins: [b] positions of the bins with predictions. confidence,
    accuracy: means in them. low, high: 95 % Wilson interval of the accuracy. counts: predictions.
    """

    edges: Floats
    bins: NDArray[np.int64]
    confidence: Floats
    accuracy: Floats
    low: Floats
    high: Floats
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, predictions: Predictions, bins: int = CALIBRATION_BINS) -> Reliability:
        """Use the bins of the expected calibration error."""
        confidence = predictions.probabilities.max(axis=1)
        correct = predictions.probabilities.argmax(axis=1) == predictions.targets
        place = confidence_bin(confidence, bins)
        counts = np.bincount(place, minlength=bins)
        used = np.flatnonzero(counts)
        n = counts[used]
        right = np.bincount(place[correct], minlength=bins)[used].astype(np.float64)
        low, high = wilson_interval(right, n)
        mean: Floats = np.bincount(place, weights=confidence, minlength=bins)[used] / n
        return cls(np.linspace(0, 1, bins + 1), used, mean, right / n, low, high, n)


def wilson_interval(successes: Floats, n: NDArray[np.integer]) -> tuple[Floats, Floats]:
    """95 % score interval of shares successes / n (Wilson 1927); NaN where n is 0."""
    trials = np.where(n > 0, n, np.nan).astype(np.float64)
    share = successes / trials
    centre = (share + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    half = Z / (1 + Z**2 / trials) * np.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
