"""Stratified bootstrap of out-of-fold predictions.

Images are drawn within each class, so that every resample keeps the class sizes (Efron & Tibshirani
1993, "An Introduction to the Bootstrap"). Images that belong together (of one patient, copies,
repeats) are drawn together: Field & Welsh 2007, "Bootstrapping clustered data". Models are kept as
they are: what follows covers other images, not other training runs.

Legend: N images, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clip_pkg.metrics.weighted import weighted_scores
from clip_pkg.results.comparison_records import Interval
from clip_pkg.study.duplicates import linked_sets

LEVEL = 0.95
SEED = 0
RESAMPLES = 1000
MIN_RESAMPLES = 200
MAX_WORK = 400_000_000  # N·C·R, some ten seconds; larger data takes fewer resamples
MAX_TABLE = 10_000_000  # N·C above which even MIN_RESAMPLES would take minutes
CHUNK = 2_000_000  # weights held at once, N × resamples
MAX_UNDEFINED = 0.05  # share of resamples without a value that an interval tolerates

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Resampled:
    """Scores of R resamples of the images, as fractions; NaN where undefined.

    scores: [R] by the names of `METRICS`. by_class: [C, R] by the names of `ClassScores`.
    units: [C] groups of images that have an image of the class; None if each image is alone.
    n_units: all groups.
    """

    scores: Mapping[str, Floats]
    by_class: Mapping[str, Floats]
    units: Labels | None
    n_units: int

    def __len__(self) -> int:
        return len(next(iter(self.scores.values())))


def image_clusters(paths: Sequence[str], clusters: Iterable[Sequence[str]]) -> Labels | None:
    """[N] equal numbers for predictions of one image or cluster; None if each stands alone.

    paths: of the predicted images; in a repeated cross-validation, an image has several
        predictions.
    """
    places: dict[str, list[int]] = {}
    for index, path in enumerate(paths):
        places.setdefault(path, []).append(index)
    members = [
        [index for path in cluster for index in places.get(path, ())] for cluster in clusters
    ]
    members += places.values()
    if all(len(cluster) < 2 for cluster in members):
        return None
    return linked_sets(len(paths), members)


def resample(
    probabilities: Floats,
    targets: Labels,
    clusters: Labels | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Resampled | None:
    """Score R resamples of the images; None for more than `MAX_TABLE` images × classes.

    Configs with equal targets, clusters and seed get the same resamples, so their scores are
    paired.

    Args:
        probabilities: [N, C], rows are distributions.
        targets: [N] in 0…C−1.
        clusters: [N] equal numbers for images that belong together; None: each image alone.
        resamples: R; fewer, but at least `MIN_RESAMPLES`, where that would take minutes.
        seed: of the draws.
    """
    size = probabilities.size
    if size > MAX_TABLE:
        return None
    count = min(resamples, max(MIN_RESAMPLES, MAX_WORK // size))
    chunks = [
        weighted_scores(probabilities, targets, weights)
        for weights in _weights(targets, clusters, count, seed)
    ]
    units = None
    if clusters is not None:
        pairs = np.unique(np.stack([targets, clusters]), axis=1)
        units = np.bincount(pairs[0], minlength=probabilities.shape[1])
    return Resampled(
        scores={
            name: np.concatenate([chunk.scores[name] for chunk in chunks])
            for name in chunks[0].scores
        },
        by_class={
            name: np.concatenate([chunk.by_class[name] for chunk in chunks], axis=1)
            for name in chunks[0].by_class
        },
        units=units,
        n_units=len(targets) if clusters is None else len(np.unique(clusters)),
    )


def percentile_interval(values: Floats, level: float = LEVEL) -> Interval | None:
    """From the (1 − level)/2 to the (1 + level)/2 quantile of resampled values.

    None if more than 5 % of them are undefined, and if they do not vary, as with a single group per
    class.
    """
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - MAX_UNDEFINED) * len(values):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high)) if low < high else None


def _weights(
    targets: Labels, clusters: Labels | None, resamples: int, seed: int
) -> Iterator[Floats]:
    """Yield how often each image is drawn, [N, chunk]; the chunks have R columns together.

    Units (images or clusters) are drawn with replacement within their stratum.
    """
    unit_of = (
        np.arange(len(targets)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    )
    # the most frequent class of each unit's images; the first of several
    classes = int(targets.max()) + 1
    cells = np.bincount(unit_of * classes + targets, minlength=(unit_of.max() + 1) * classes)
    strata = cells.reshape(-1, classes).argmax(axis=1)
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
