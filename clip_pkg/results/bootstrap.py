"""Stratified bootstrap of out-of-fold predictions: intervals of scores and of their differences.

Percentile intervals (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13) over
images drawn within each class, so that every resample keeps the class sizes. Images that belong
together (of one patient, copies) are drawn together: Field & Welsh 2007, "Bootstrapping clustered
data". Models are kept as they are: an interval covers other images, not other training runs.

Legend: N images, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_pkg.metrics.table import METRICS
from clip_pkg.metrics.weighted import weighted_scores
from clip_pkg.results.comparison_records import Interval
from clip_pkg.study.duplicates import linked_sets
from clip_pkg.study.predictions import Predictions

LEVEL = 0.95
RESAMPLES = 2000
MIN_RESAMPLES = 200
MAX_WORK = 4_000_000_000  # N·C·R, some 30 seconds; larger data takes fewer resamples
CHUNK = 2_000_000  # weights held at once, N × resamples
MAX_UNDEFINED = 0.05  # share of resamples without a value that an interval tolerates
METHOD = "stratified percentile bootstrap"

# Of a summary, which must not hold up a run: N·C·R for about ten seconds, and the N·C above which
# even MIN_RESAMPLES would take minutes.
SUMMARY_RESAMPLES = 1000
MAX_SUMMARY_WORK = 400_000_000
MAX_SUMMARY_TABLE = 10_000_000
SUMMARY_SEED = 0
PER_CLASS = ("precision", "recall", "f1", "average_precision", "auroc")

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def confidence_intervals(
    predictions: Predictions, clusters: Iterable[Sequence[str]]
) -> dict[str, Any] | None:
    """The block `confidence_intervals` of a summary; None for too many images.

    clusters: lists of paths that belong together.
    """
    size = predictions.probabilities.size
    if size > MAX_SUMMARY_TABLE:
        return None
    resamples = max(MIN_RESAMPLES, min(SUMMARY_RESAMPLES, MAX_SUMMARY_WORK // size))
    units = image_clusters(predictions.paths, clusters)
    scores, by_class = resampled_scores(
        predictions.probabilities,
        predictions.targets,
        clusters=units,
        resamples=resamples,
        seed=SUMMARY_SEED,
    )

    def interval(values: Floats | None) -> list[float] | None:
        found = None if values is None else percentile_interval(values)
        return None if found is None else [found.low, found.high]

    return {
        "method": METHOD,
        "level": LEVEL,
        "resamples": resamples,
        "seed": SUMMARY_SEED,
        "drawn": "images" if units is None else "groups of images",
        "out_of_fold": {name: interval(scores.get(name)) for name in METRICS},
        "per_class": {
            name: {score: interval(by_class[score][label]) for score in PER_CLASS}
            for label, name in enumerate(predictions.classes)
        },
    }


def image_clusters(paths: Sequence[str], clusters: Iterable[Sequence[str]]) -> Labels | None:
    """[N] equal numbers for images of one cluster; None if no two images belong together."""
    place = {path: index for index, path in enumerate(paths)}
    members = [[place[path] for path in cluster if path in place] for cluster in clusters]
    if all(len(cluster) < 2 for cluster in members):
        return None
    return linked_sets(len(paths), members)


def resampled_scores(
    probabilities: Floats,
    targets: Labels,
    *,
    clusters: Labels | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[dict[str, Floats], Mapping[str, Floats]]:
    """Scores of R resamples of the images; NaN where undefined.

    Configs with equal targets, clusters and seed get the same resamples, so the differences of
    their scores are a paired bootstrap.

    Args:
        probabilities: [N, C], rows are distributions.
        targets: [N] in 0…C−1.
        clusters: [N] equal numbers for images that belong together; None: each image alone.
        resamples: R; fewer where that would take minutes (`affordable`).
        seed: of the draws.

    Returns:
        Scores [R] in the units of the history, and fractions by class [C, R].
    """
    count = affordable(len(targets), probabilities.shape[1], resamples)
    chunks = [
        weighted_scores(probabilities, targets, weights)
        for weights in _weights(targets, clusters, count, seed)
    ]
    scores = {
        name: METRICS[name].factor * np.concatenate([chunk.scores[name] for chunk in chunks])
        for name in chunks[0].scores
    }
    by_class = {
        name: np.concatenate([chunk.by_class[name] for chunk in chunks], axis=1)
        for name in chunks[0].by_class
    }
    return scores, by_class


def percentile_interval(values: Floats, level: float = LEVEL) -> Interval | None:
    """From the (1 − level)/2 to the (1 + level)/2 quantile of resampled values.

    None if more than 5 % of them are undefined.
    """
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - MAX_UNDEFINED) * len(values):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def affordable(count: int, classes: int, resamples: int) -> int:
    """Number of resamples of N images and C classes: as requested, or fewer but at least 200."""
    return min(resamples, max(MIN_RESAMPLES, MAX_WORK // (count * classes)))


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
