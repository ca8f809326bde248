"""Confidence intervals of scores over out-of-fold predictions, models fixed.

Proportions (accuracy, recall, precision, …) have Wilson's interval (Wilson 1927), which neither has
zero width at 5 of 5 nor leaves [0, 1]. Scores that are no proportions get the Wilson interval of
the effective number of images: F1 by way of F1/(2 − F1), the share of TP + FP + FN that is TP;
AUROC by Hanley & McNeil's variance (1982); average precision by the geometric mean of the number of
positives and p·(1 − p) over the bootstrap's variance. Means over classes combine the classes'
limits by MOVER (Zou & Donner 2008), with the correlations of a stratified bootstrap; Cohen's kappa
and Matthews' correlation are linear in the accuracy, given how often each class is there and is
predicted. Log loss, Brier score and any further metric have the bootstrap's percentiles.
`benchmarks/coverage.py` measures how often all of these cover.

Images that belong together (one patient, copies, repeats) reduce the effective number of images by
the design effect that a bootstrap of groups shows, down to the number of groups.

Legend: N images, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from clip_pkg.metrics.classification import classification_metrics
from clip_pkg.metrics.table import METRICS, ClassMean
from clip_pkg.results.bootstrap import LEVEL, Resampled, percentile_interval
from clip_pkg.results.comparison_records import Interval, Pooled

PER_CLASS = ("precision", "recall", "f1", "average_precision", "auroc")
PROPORTIONS = ("acc", "recall_weighted", "top_k")  # of all images

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Optimism:
    """What choosing on the reported images added: fractions, by score and by class [C]."""

    scores: Mapping[str, float]
    by_class: Mapping[str, Floats]


@dataclass(frozen=True)
class ScoreIntervals:
    """Scores and their intervals, in the units of the history; None where undefined.

    by_class: an interval per class for each score of `PER_CLASS`, as fractions. resampled: what
    they were computed from.
    """

    values: Mapping[str, float | None]
    scores: Mapping[str, Interval | None]
    by_class: Mapping[str, tuple[Interval | None, ...]]
    resampled: Resampled


def wilson(share: Any, count: Any, level: float = LEVEL) -> tuple[Any, Any]:
    """Wilson's limits of a proportion; from 0 to 1 where nothing was counted.

    share: in [0, 1]. count: number of trials, which need not be whole. Both may be arrays.
    """
    z = float(ndtri((1 + level) / 2))
    n = np.maximum(count, 1e-9)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = np.maximum(centre - reach, 0.0), np.minimum(centre + reach, 1.0)
    return np.where(count > 0, np.minimum(low, share), 0.0), np.where(
        count > 0, np.maximum(high, share), 1.0
    )


def score_intervals(
    probabilities: Floats,
    targets: NDArray[np.int64],
    resampled: Resampled,
    *,
    level: float = LEVEL,
    optimism: Optimism | None = None,
) -> ScoreIntervals:
    """Intervals of every metric but the calibration error, which is no mean over images.

    Args:
        probabilities: [N, C], rows are distributions.
        targets: [N] in 0…C−1.
        resampled: of the same predictions.
        level: of each interval.
        optimism: subtracted from the scores; the intervals are those of what is left.
    """
    metrics = classification_metrics(probabilities, targets)
    support, predicted = metrics.confusion.sum(axis=1), metrics.confusion.sum(axis=0)
    values: dict[str, float] = {}
    for name, value in metrics.scores.items():
        removed = 0.0 if optimism is None else optimism.scores.get(name, 0.0)
        low, high = METRICS[name].bounds
        values[name] = np.nan if value is None else float(np.clip(value - removed, low, high))
    by_class = {}
    for score in resampled.by_class:
        found = [getattr(row, score) for row in metrics.per_class]
        by_class[score] = np.array([np.nan if value is None else value for value in found])
        if optimism is not None:
            by_class[score] = np.clip(by_class[score] - optimism.by_class[score], 0.0, 1.0)
    limits = _class_limits(by_class, support, predicted, resampled, level)
    true, answered = support / len(targets), predicted / len(targets)
    linear_in_accuracy = {
        "kappa": 1 - float(true @ answered),
        "mcc": float(np.sqrt((1 - true @ true) * (1 - answered @ answered))),
    }
    bounds: dict[str, tuple[float, float]] = {}
    for name, draws in resampled.scores.items():  # the accuracy is the first
        compute = METRICS[name].compute
        if name in PROPORTIONS:
            bounds[name] = _wilson_of_all(values[name], len(targets), resampled, name, level)
        elif isinstance(compute, ClassMean):
            bounds[name] = _limits_of_mean(
                values[name],
                by_class[compute.score],
                limits[compute.score],
                support if compute.by_support else np.ones(len(support)),
                _correlations(resampled.by_class[compute.score]),
            )
        elif name in linear_in_accuracy:
            if (scale := linear_in_accuracy[name]) > 0:
                low, high = ((limit - values["acc"]) / scale for limit in bounds["acc"])
                bounds[name] = values[name] + low, values[name] + high
        elif (percentiles := percentile_interval(draws, level)) is not None:
            shift = values[name] - (metrics.scores[name] or 0.0)
            bounds[name] = percentiles.low + shift, percentiles.high + shift
    return ScoreIntervals(
        values={
            name: None if np.isnan(value) else METRICS[name].factor * value
            for name, value in values.items()
        },
        scores={name: _in_unit(name, value, bounds.get(name)) for name, value in values.items()},
        by_class={
            score: tuple(
                None if np.isnan(value) else Interval(float(low), float(high))
                for value, low, high in zip(by_class[score], *limits[score], strict=True)
            )
            for score in PER_CLASS
        },
        resampled=resampled,
    )


def _class_limits(
    by_class: Mapping[str, Floats],
    support: NDArray[np.int64],
    predicted: NDArray[np.int64],
    resampled: Resampled,
    level: float,
) -> dict[str, tuple[Floats, Floats]]:
    """Lower and upper limits [C] of each class's scores."""
    spread = {name: _deviations(draws) for name, draws in resampled.by_class.items()}
    others = support.sum() - support

    def effective(share: Floats, images: NDArray[Any], sd: Floats) -> Floats:
        """Number of independent images whose proportion varies as much."""
        if resampled.units is None:
            return images.astype(np.float64)
        least = images * resampled.units / np.maximum(support, 1)
        return np.clip(_trials(share, sd, least), least, images)

    recall, area, precision = (by_class[name] for name in ("recall", "auroc", "average_precision"))
    positives = effective(recall, support, spread["recall"])
    negatives = others * positives / np.maximum(support, 1)
    overlap = by_class["f1"] / (2 - by_class["f1"])
    sd_of_overlap = spread["f1"] * 2 / (2 - by_class["f1"]) ** 2
    union = support + predicted - np.nan_to_num(recall) * support
    images = {
        "recall": positives,
        "specificity": effective(by_class["specificity"], others, spread["specificity"]),
        "precision": effective(by_class["precision"], predicted, spread["precision"]),
        "auroc": _auroc_images(area, positives, negatives),
        "average_precision": np.sqrt(
            positives * _trials(precision, spread["average_precision"], positives)
        ),
    }
    limits = {score: wilson(by_class[score], count, level) for score, count in images.items()}
    low, high = wilson(overlap, effective(overlap, union, sd_of_overlap), level)
    return {**limits, "f1": (2 * low / (1 + low), 2 * high / (1 + high))}


def _trials(share: Floats, sd: Floats, otherwise: Floats) -> Floats:
    """Number of trials whose proportion has this standard deviation; else where it has none."""
    known = (sd > 0) & (share > 0) & (share < 1)
    return np.divide(share * (1 - share), sd**2, out=otherwise.astype(np.float64), where=known)


def _wilson_of_all(
    share: float, images: int, resampled: Resampled, name: str, level: float
) -> tuple[float, float]:
    """Limits of a proportion of all images."""
    count = float(images)
    if resampled.units is not None:
        least = np.array([float(resampled.n_units)])
        sd = _deviations(resampled.scores[name][None])
        count = float(np.clip(_trials(np.array([share]), sd, least), least, images)[0])
    low, high = wilson(share, count, level)
    return float(low), float(high)


def _limits_of_mean(
    mean: float,
    of_classes: Floats,
    limits: tuple[Floats, Floats],
    weights: NDArray[Any],
    correlations: Floats,
) -> tuple[float, float]:
    """Limits of a mean over the classes where a score is defined, by MOVER."""
    defined = ~np.isnan(of_classes)
    kept = np.where(defined, weights, 0.0)
    kept = kept / max(float(kept.sum()), 1e-300)
    below, above = (kept * np.where(defined, np.abs(of_classes - limit), 0.0) for limit in limits)
    down, up = (float(reach @ correlations @ reach) for reach in (below, above))
    return mean - max(down, 0.0) ** 0.5, mean + max(up, 0.0) ** 0.5


def _in_unit(name: str, value: float, bounds: tuple[float, float] | None) -> Interval | None:
    """The interval in the unit of the history, within the metric's bounds and around the value."""
    if bounds is None or np.isnan(value):
        return None
    metric = METRICS[name]
    low, high = np.clip([min(bounds[0], value), max(bounds[1], value)], *metric.bounds)
    return Interval(metric.factor * float(low), metric.factor * float(high))


def difference_interval(first: Pooled, second: Pooled, alike: float) -> Interval | None:
    """Interval of a difference of two scores from their own intervals (MOVER).

    alike: correlation of the two scores over resamples.
    """
    a, mine, b, theirs = first.value, first.interval, second.value, second.interval
    if a is None or b is None or mine is None or theirs is None:
        return None

    def reach(this: float, other: float) -> float:
        return float(np.sqrt(max(this**2 + other**2 - 2 * alike * this * other, 0.0)))

    return Interval(
        a - b - reach(a - mine.low, theirs.high - b), a - b + reach(mine.high - a, b - theirs.low)
    )


def correlation(first: Floats, second: Floats) -> float:
    """Correlation of two scores [R] over the same resamples; 0 where one of them does not vary."""
    return float(_correlations(np.stack([first, second]))[0, 1])


def _auroc_images(area: Floats, positives: Floats, negatives: Floats) -> Floats:
    """Number of trials whose proportion varies as an AUROC does (Hanley & McNeil 1982) [C].

    At an area of 1 their variance is 0, so it is computed as if half of one more image of the
    smaller side were on the wrong side.
    """
    smaller = np.minimum(positives, negatives)
    a = (area * smaller + 0.5) / (smaller + 1)
    variance = (
        a * (1 - a)
        + (positives - 1) * (a / (2 - a) - a * a)
        + (negatives - 1) * (2 * a * a / (1 + a) - a * a)
    ) / np.maximum(positives * negatives, 1e-300)
    images: Floats = a * (1 - a) / np.maximum(variance, 1e-300)
    return images


def _centred(draws: Floats) -> Floats:
    """[C, R] differences from the means over the resamples where a score is defined; else 0."""
    defined = ~np.isnan(draws)
    count = np.maximum(defined.sum(axis=1, keepdims=True), 1)
    mean = np.where(defined, draws, 0.0).sum(axis=1, keepdims=True) / count
    return np.where(defined, draws - mean, 0.0)


def _deviations(draws: Floats) -> Floats:
    """[C] standard deviations over resamples [C, R]; 0 where a score is never defined."""
    count = np.maximum((~np.isnan(draws)).sum(axis=1), 1)
    found: Floats = np.sqrt((_centred(draws) ** 2).sum(axis=1) / count)
    return found


def _correlations(draws: Floats) -> Floats:
    """[C, C] correlations of the classes' scores [C, R]; 0 with a class that does not vary."""
    deviation = _centred(draws)
    length = np.linalg.norm(deviation, axis=1, keepdims=True)
    unit = np.divide(deviation, length, out=np.zeros_like(deviation), where=length > 0)
    found: Floats = unit @ unit.T
    np.fill_diagonal(found, 1.0)
    return found
