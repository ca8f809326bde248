"""Stratified bootstrap of out-of-fold predictions: intervals of scores and of their differences.

Efron & Tibshirani 1993, "An Introduction to the Bootstrap": percentile intervals (chapter 13),
here over images drawn anew within each class, so that every resample has the classes' sizes. Images
that belong together (a patient, copies) are drawn together: Field & Welsh 2007, "Bootstrapping
clustered data". The models stay as they are: an interval tells what other images would
have changed, not what other training would.

Legend: N images, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_pkg.metrics.table import METRICS
from clip_pkg.metrics.weighted import weighted_scores

LEVEL = 0.95
RESAMPLES = 2000
FEWEST_RESAMPLES = 200
# Work of a bootstrap is N·C·R; above this (some 30 seconds) it takes fewer resamples.
LARGEST_WORK = 4_000_000_000
CHUNK = 2_000_000  # weights held at once, N × resamples
LARGEST_UNDEFINED = 0.05  # share of resamples without a value that an interval bears
METHOD = "stratified percentile bootstrap"

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, in the unit of the score."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class BootstrapIntervals:
    """Confidence intervals of one config's pooled scores.

    intervals: by score, in the units of histories; None where the score is undefined in more than
        5 % of the resamples, or says nothing in a resample (`ece`: repeated images inflate it).
    by_class: the same by the names of `ClassScores`, C fractions each.
    level: of each interval, such as 0.95.
    resamples: how many there were.
    seed: of the draws.
    drawn: `images`, or `groups of images` that belong together.
    """

    intervals: Mapping[str, Interval | None]
    by_class: Mapping[str, Sequence[Interval | None]]
    level: float
    resamples: int
    seed: int
    drawn: str

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; an interval is [low, high]."""
        return {
            "method": METHOD,
            "level": self.level,
            "resamples": self.resamples,
            "seed": self.seed,
            "drawn": self.drawn,
            "intervals": {
                name: None if one is None else [one.low, one.high]
                for name, one in self.intervals.items()
            },
        }


def bootstrap_intervals(
    probabilities: Floats,
    targets: Labels,
    *,
    clusters: Labels | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> BootstrapIntervals:
    """Percentile intervals of every score of `classification_metrics` over pooled predictions.

    Args:
        probabilities: [N, C], rows are distributions.
        targets: [N] in 0…C−1.
        clusters: [N] equal numbers for images that belong together; None: every image by itself.
        level: of the intervals, above 0 and below 1.
        resamples: R; fewer (see `affordable`) where that would take minutes.
        seed: of the draws; the same seed, targets and clusters draw the same images.
    """
    scores, by_class = _resampled(
        probabilities, targets, clusters=clusters, resamples=resamples, seed=seed
    )
    intervals = {name: percentile_interval(values, level) for name, values in scores.items()}
    return BootstrapIntervals(
        intervals={name: intervals.get(name) for name in METRICS},
        by_class={
            name: [percentile_interval(row, level) for row in rows]
            for name, rows in by_class.items()
        },
        level=level,
        resamples=affordable(len(targets), probabilities.shape[1], resamples),
        seed=seed,
        drawn="images" if clusters is None else "groups of images",
    )


def resampled_scores(
    probabilities: Floats,
    targets: Labels,
    *,
    clusters: Labels | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Floats]:
    """Scores of R resamples, [R] each, in the units of histories; NaN where undefined.

    Two configs with the same targets, clusters and seed see the same resamples: the differences of
    what this returns for them are a paired bootstrap.
    """
    return _resampled(probabilities, targets, clusters=clusters, resamples=resamples, seed=seed)[0]


def _resampled(
    probabilities: Floats, targets: Labels, *, clusters: Labels | None, resamples: int, seed: int
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Scores [R] in the units of histories, and fractions by class [C, R]."""
    count = affordable(len(targets), probabilities.shape[1], resamples)
    parts = [
        weighted_scores(probabilities, targets, weights)
        for weights in _weights(targets, clusters, count, seed)
    ]
    scores = {
        name: METRICS[name].factor * np.concatenate([part.scores[name] for part in parts])
        for name in parts[0].scores
    }
    by_class = {
        name: np.concatenate([part.by_class[name] for part in parts], axis=1)
        for name in parts[0].by_class
    }
    return scores, by_class


def percentile_interval(values: Floats, level: float = LEVEL) -> Interval | None:
    """The middle `level` of resampled values; None where too many of them are undefined.

    Efron & Tibshirani 1993, chapter 13: from the (1 − level)/2 to the (1 + level)/2 quantile.
    """
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - LARGEST_UNDEFINED) * len(values):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def affordable(count: int, classes: int, resamples: int) -> int:
    """Resamples of N images and C classes that take no minutes: as asked for, but at least 200."""
    most = max(FEWEST_RESAMPLES, LARGEST_WORK // (count * classes))
    return min(resamples, most)


def _weights(
    targets: Labels, clusters: Labels | None, resamples: int, seed: int
) -> Iterator[Floats]:
    """How often each image is drawn, [N, some] at a time, R columns in all.

    Units (images or clusters) are drawn with replacement within the class that most of their images
    have, as many as there are.
    """
    unit_of = (
        np.arange(len(targets)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    )
    strata = _strata(targets, unit_of)
    random = np.random.default_rng(seed)
    at_once = max(1, CHUNK // len(targets))
    for start in range(0, resamples, at_once):
        columns = min(at_once, resamples - start)
        counts = np.zeros((len(strata), columns))
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            drawn = random.integers(len(members), size=(len(members), columns))
            flat = np.bincount(
                (drawn * columns + np.arange(columns)).ravel(), minlength=len(members) * columns
            )
            counts[members] = flat.reshape(len(members), columns)
        yield counts[unit_of]


def _strata(targets: Labels, unit_of: Labels) -> Labels:
    """Class of each unit: the one that most of its images have, the first of several."""
    classes = int(targets.max()) + 1
    cells = np.bincount(unit_of * classes + targets, minlength=(unit_of.max() + 1) * classes)
    strata: Labels = cells.reshape(-1, classes).argmax(axis=1).astype(np.int64)
    return strata
