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
from sklearn.metrics import precision_recall_curve, roc_curve

from clip_pkg.metrics.calibration import confidence_bin
from clip_pkg.metrics.table import CALIBRATION_BINS
from clip_pkg.results.intervals import wilson
from clip_pkg.study.fold_files import History
from clip_pkg.study.predictions import Predictions

GRID = 201  # points at which the folds' curves are averaged

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


Curve: TypeAlias = Callable[[Floats, Bools, Floats], Floats]


def roc_at(grid: Floats, positive: Bools, scores: Floats) -> Floats:
    """True positive rate at false positive rates `grid`, on straight lines between thresholds."""
    false_positive_rate, true_positive_rate, _ = roc_curve(
        positive, scores, drop_intermediate=False
    )
    # at a vertical step interp takes the upper end
    values: Floats = np.interp(grid, false_positive_rate, true_positive_rate)
    return values


def precision_at(grid: Floats, positive: Bools, scores: Floats) -> Floats:
    """Precision where recalls `grid` are first reached: the steps that average precision sums."""
    precision, recall, _ = precision_recall_curve(positive, scores)
    first = np.searchsorted(recall[::-1], grid - 1e-12, side="left")
    values: Floats = precision[::-1][np.maximum(first, 1)]
    return values


def class_curves(predictions: Predictions, curve: Curve, grid: Floats) -> Floats:
    """One-vs-rest curves [C, G]; NaN for a class with no samples or with all of them."""
    curves = np.full((len(predictions.classes), len(grid)), np.nan)
    for label, scores in enumerate(predictions.probabilities.T):
        positive = predictions.targets == label
        if 0 < positive.sum() < len(positive):
            curves[label] = curve(grid, positive, scores)
    return curves


def macro_band(folds: Sequence[Predictions], curve: Curve) -> Band:
    """Mean over classes for each fold, and mean ± SD of these over folds."""
    grid = np.linspace(0.0, 1.0, GRID)
    rows = np.full((len(folds), GRID), np.nan)
    for row, fold in zip(rows, folds, strict=True):
        curves = class_curves(fold, curve, grid)
        defined = curves[~np.isnan(curves).any(axis=1)]
        if len(defined):
            row[:] = defined.mean(axis=0)
    return Band.over(grid, rows)


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
    def of(cls, predictions: Predictions, n_repeats: int = 1) -> Reliability:
        """Use the bins of the expected calibration error. n_repeats: predictions per image."""
        bins = CALIBRATION_BINS
        confidence = predictions.probabilities.max(axis=1)
        correct = predictions.probabilities.argmax(axis=1) == predictions.targets
        place = confidence_bin(confidence, bins)
        counts = np.bincount(place, minlength=bins)
        used = np.flatnonzero(counts)
        n = counts[used]
        right = np.bincount(place[correct], minlength=bins)[used].astype(np.float64)
        low, high = wilson(right / n, n / n_repeats)
        mean: Floats = np.bincount(place, weights=confidence, minlength=bins)[used] / n
        return cls(np.linspace(0, 1, bins + 1), used, mean, right / n, low, high, n)
