"""Confidence intervals of a config's pooled predictions, as `cv_summary.json` holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_pkg.study.duplicates import DisjointSets
from clip_pkg.study.predictions import Predictions

LEVEL = 0.95
RESAMPLES = 1000
FEWEST_RESAMPLES = 200
SEED = 0
PER_CLASS = ("precision", "recall", "f1", "average_precision", "auroc")
# Images × classes × resamples that take some ten seconds; a summary must not hold up a run.
LARGEST_WORK = 400_000_000
# Images × classes beyond which even the fewest resamples would take minutes: no intervals then.
LARGEST_TABLE = 10_000_000


def confidence_intervals(
    pooled: Predictions, folds_info: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Intervals of the overall scores and of each class's; None for too many images."""
    # scipy takes half a second to import, for which the start of a run need not wait.
    from clip_pkg.results.bootstrap import METHOD, Interval, bootstrap_intervals  # noqa: PLC0415

    if pooled.probabilities.size > LARGEST_TABLE:
        return None
    most = LARGEST_WORK // pooled.probabilities.size
    found = bootstrap_intervals(
        pooled.probabilities,
        pooled.targets,
        clusters=image_clusters(
            pooled.paths, [*(folds_info.get("groups") or ()), *folds_info.get("linked", ())]
        ),
        level=LEVEL,
        resamples=max(FEWEST_RESAMPLES, min(RESAMPLES, most)),
        seed=SEED,
    )

    def plain(interval: Interval | None) -> list[float] | None:
        return None if interval is None else [interval.low, interval.high]

    return {
        "method": METHOD,
        "level": found.level,
        "resamples": found.resamples,
        "seed": found.seed,
        "drawn": found.drawn,
        "out_of_fold": {name: plain(one) for name, one in found.intervals.items()},
        "per_class": {
            name: {score: plain(found.by_class[score][label]) for score in PER_CLASS}
            for label, name in enumerate(pooled.classes)
        },
    }


def image_clusters(
    paths: Sequence[str], together: Iterable[Sequence[str]]
) -> NDArray[np.int64] | None:
    """[N] equal numbers for images that a list of `together` joins; None if all stand alone."""
    place = {path: index for index, path in enumerate(paths)}
    sets = DisjointSets(len(paths))
    joined = False
    for cluster in together:
        members = [place[path] for path in cluster if path in place]
        for other in members[1:]:
            sets.join(members[0], other)
            joined = True
    return sets.names() if joined else None
