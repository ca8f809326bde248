"""The headline of a config: scores that no choice on the reported images has flattered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import RunFolderError
from clip_pkg.metrics.table import METRICS, lower_is_better
from clip_pkg.results.bias_correction import ConfigChoices, FoldChoices, optimism
from clip_pkg.results.bootstrap import LEVEL, MAX_TABLE, SEED, image_clusters, resample
from clip_pkg.results.comparison_records import Interval, Question, Winner
from clip_pkg.results.folders import ConfigFiles, HeadlineRule
from clip_pkg.results.intervals import Optimism, ScoreIntervals, score_intervals
from clip_pkg.study.epoch_predictions import read_epoch_predictions
from clip_pkg.study.predictions import Predictions
from clip_pkg.training.early_stopping import BestEpoch

MEANINGS: Mapping[HeadlineRule, str] = {
    "inner split": "best epoch by an inner validation split, which the reported images are not in",
    "last epoch": "last epoch; no epoch was chosen",
    "bias corrected": "best epoch of each fold, less what its choice on the reported images added",
}
METHOD = "Wilson; means over classes by MOVER; log loss and Brier score by bootstrap"
STOPPED = (
    "; early stopping saw the reported images, and without the predictions of every epoch that "
    "cannot be corrected"
)


def headline_block(files: ConfigFiles) -> dict[str, Any] | None:
    """The block `headline` of a summary; None while no fold is done, and for too many images."""
    rule = files.headline_rule
    predictions = files.pooled(files.headline_epoch)
    if predictions is None or predictions.probabilities.size > MAX_TABLE:
        return None
    removed = None
    if rule == "bias corrected":
        removed = optimism([choices_of(files)])
    found = intervals_of(files, predictions, removed=removed)
    if found is None:
        return None
    stopped = any(fold.result is not None and fold.result.stopped_early for fold in files.done)
    meaning = MEANINGS[rule] + (STOPPED if rule == "last epoch" and stopped else "")
    return {
        "rule": rule,
        "epoch": files.headline_epoch,
        "means": meaning,
        "level": LEVEL,
        "scores": dict(found.values),
        "intervals": {name: _low_high(interval) for name, interval in found.scores.items()},
        "optimism_removed": None
        if removed is None
        else {name: METRICS[name].factor * value for name, value in removed.scores.items()},
    }


def intervals_block(files: ConfigFiles, pooled: Predictions) -> dict[str, Any] | None:
    """The block `confidence_intervals` of a summary; None for too many images."""
    found = intervals_of(files, pooled)
    if found is None:
        return None
    return {
        "method": METHOD,
        "level": LEVEL,
        "drawn": "groups of images" if files.clusters else "images",
        "out_of_fold": {name: _low_high(interval) for name, interval in found.scores.items()},
        "per_class": {
            name: {score: _low_high(rows[label]) for score, rows in found.by_class.items()}
            for label, name in enumerate(pooled.classes)
        },
    }


def _low_high(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def intervals_of(
    files: ConfigFiles,
    predictions: Predictions,
    *,
    level: float = LEVEL,
    seed: int = SEED,
    removed: Optimism | None = None,
) -> ScoreIntervals | None:
    """Intervals of pooled predictions of a config, the same wherever they are shown.

    None for too many images.
    """
    ordered = predictions.sorted()
    units = image_clusters(ordered.paths, files.clusters)
    resampled = resample(ordered.probabilities, ordered.targets, units, seed=seed)
    if resampled is None:
        return None
    return score_intervals(
        predictions.probabilities,
        predictions.targets,
        resampled,
        level=level,
        optimism=removed,
    )


def choices_of(files: ConfigFiles) -> ConfigChoices:
    """What each finished fold chose its epoch from; one epoch where nothing was chosen.

    Raises RunFolderError if the epochs do not belong to the fold's result.
    """
    config, rule = files.config, files.headline_rule
    pooled = files.pooled(files.headline_epoch)
    assert pooled is not None, "a fold is done"
    clusters = image_clusters(pooled.paths, files.clusters)
    numbers = range(len(pooled.paths)) if clusters is None else clusters.tolist()
    unit_of = dict(zip(pooled.paths, numbers, strict=True))
    folds = []
    for fold in files.done:
        result = fold.result
        mine = fold.predictions if files.headline_epoch == "best" else fold.predictions_last
        assert result is not None
        assert mine is not None
        order = sorted(range(len(mine.paths)), key=mine.paths.__getitem__)
        table: NDArray[np.floating] = mine.probabilities[None]
        reported = 0
        if rule == "bias corrected":
            kept = read_epoch_predictions(fold.paths)
            if kept is None or kept.shape != (result.last_epoch, *mine.probabilities.shape):
                raise RunFolderError(
                    f"{fold.paths.epoch_predictions} does not belong to the result beside it; "
                    "delete it, and the headline is the last epoch"
                )
            table, reported = kept, (result.best_epoch or 1) - 1
        folds.append(
            FoldChoices(
                probabilities=table[:, order],
                reported=reported,
                targets=mine.targets[order],
                units=np.array([unit_of[mine.paths[index]] for index in order]),
            )
        )
    monitor = config["early_stopping_monitor"]
    sign = -1 if lower_is_better(monitor) else 1
    patience, min_delta = config["early_stopping_patience"], config["early_stopping_min_delta"]
    return ConfigChoices(folds, monitor, BestEpoch(sign, patience, min_delta))


def best_of(
    configs: Sequence[ConfigFiles],
    winner: int,
    name: str,
    question: Question,
    advance: Callable[[], None],
) -> Winner | None:
    """Correct the winner's score for its choice among configs with identical folds.

    name: of the winner. advance: called once per config. Returns None for too many images.
    """
    metric = question.metric
    files = configs[winner]
    predictions = files.pooled(files.headline_epoch)
    assert predictions is not None, "complete configs have predictions"
    if predictions.probabilities.size > MAX_TABLE:
        return None
    removed = optimism([choices_of(one) for one in configs], winner, metric, advance=advance)
    found = intervals_of(files, predictions, level=question.level, removed=removed)
    if found is None:
        return None
    added = METRICS[metric].factor * removed.scores.get(metric, 0.0)
    return Winner(name, len(configs), found.values[metric], found.scores[metric], added)
