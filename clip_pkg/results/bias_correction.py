"""What choosing an epoch, or a config, on the reported images adds to its scores.

The choice is repeated on resamples of the held-out images, and the images that a resample leaves
out score it: Tsamardinos, Greasidou & Borboudakis 2018, "Bootstrapping the out-of-sample
predictions for efficient and accurate cross-validation" (BBC-CV). The optimism is the mean
difference, on the left-out images, between what was reported and what the resample would have
chosen. For a score that is a mean over images, subtracting it gives the estimate of BBC-CV; for
others the difference avoids the bias of scores of few images.

Legend: E epochs, N held-out images of a fold, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clip_pkg.metrics.table import METRICS, ClassMean
from clip_pkg.metrics.weighted import RANKING, WeightedScores, weighted_scores
from clip_pkg.results.intervals import Optimism
from clip_pkg.training.early_stopping import BestEpoch

RESAMPLES = 400
MIN_RESAMPLES = 40
RESAMPLES_OF_SORTED = 100  # of a monitor for which images are sorted in every resample
MAX_WORK = 100_000_000  # images × classes × resamples; larger data takes fewer resamples
SEED = 0

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FoldChoices:
    """The epochs of a fold of one config among which one was chosen.

    probabilities: [E, N, C]; E is 1 where nothing was chosen on these images. reported: position
    of the epoch whose scores are reported. targets: [N]. units: [N]; images of one unit, in any
    fold, are drawn together.
    """

    probabilities: NDArray[np.floating]
    reported: int
    targets: Labels
    units: Labels


@dataclass(frozen=True, eq=False)
class ConfigChoices:
    """The folds of one config, and the rule by which each chose its epoch.

    monitor: `val_<score>` or `val_loss`, for which the log loss of the probabilities stands,
    because a loss of batches has no value for an image.
    """

    folds: Sequence[FoldChoices]
    monitor: str
    rule: BestEpoch

    @property
    def resampled_monitor(self) -> str:
        """Name of the metric that chooses epochs in a resample."""
        if self.monitor == "val_loss":
            return "log_loss"
        return _resampled(self.monitor.removeprefix("val_"))


def optimism(
    configs: Sequence[ConfigChoices],
    reported: int = 0,
    metric: str = "acc",
    *,
    resamples: int = RESAMPLES,
    advance: Callable[[], None] = lambda: None,
) -> Optimism:
    """Optimism of the reported config, chosen among all by the mean of `metric` over folds.

    The folds of all configs have the same images in the same order. advance: called once per
    config.
    """
    size = sum(fold.probabilities[0].size for fold in configs[reported].folds)
    resamples = min(resamples, max(MIN_RESAMPLES, MAX_WORK // size))
    if any(_sorts_by_class(config.resampled_monitor) for config in configs):
        resamples = min(resamples, RESAMPLES_OF_SORTED)
    random = np.random.default_rng(SEED)
    drawn = _draws(configs[0].folds, resamples, random, alone=len(configs) == 1)
    # Of a fold of which no image was drawn, all images choose.
    choosing = [np.where(weights.sum(axis=0) > 0, weights, 1.0) for weights in drawn]
    epochs = []
    for config in configs:
        pairs = zip(config.folds, choosing, strict=True)
        epochs.append([_chosen_epochs(config, fold, weights) for fold, weights in pairs])
        advance()
    config_of = np.full(resamples, reported)
    if len(configs) > 1:
        config_of = _chosen_configs(configs, epochs, choosing, _resampled(metric))
    scores: dict[str, list[float]] = {}
    by_class: dict[str, list[Floats]] = {}
    stated = [fold.reported for fold in configs[reported].folds]
    for r in range(resamples):
        left_out = [np.flatnonzero(weights[:, r] == 0) for weights in drawn]
        if not any(images.size for images in left_out):
            continue
        chosen = [int(of_fold[r]) for of_fold in epochs[config_of[r]]]
        mine = _scored(configs[reported].folds, stated, left_out)
        theirs = _scored(configs[config_of[r]].folds, chosen, left_out)
        for name, value in mine.scores.items():
            scores.setdefault(name, []).append(float(value[0] - theirs.scores[name][0]))
        for name, values in mine.by_class.items():
            by_class.setdefault(name, []).append((values - theirs.by_class[name])[:, 0])
    return Optimism(
        scores={name: _mean(np.array(values)[:, None])[0] for name, values in scores.items()},
        by_class={name: _mean(np.array(values)) for name, values in by_class.items()},
    )


def _resampled(metric: str) -> str:
    """The metric, or for the calibration error, which is not resampled, the Brier score."""
    return metric if METRICS[metric].is_resampled else "brier"


def _sorts_by_class(metric: str) -> bool:
    compute = METRICS[metric].compute
    return isinstance(compute, ClassMean) and compute.score in RANKING


def _mean(values: Floats) -> Floats:
    """Mean over R of [R, …] where defined; 0 where never."""
    defined = ~np.isnan(values)
    found: Floats = np.where(defined, values, 0.0).sum(axis=0) / np.maximum(defined.sum(axis=0), 1)
    return found


def _scored(
    folds: Sequence[FoldChoices], epochs: Sequence[int], images: Sequence[Labels]
) -> WeightedScores:
    """Scores of these images of all folds together, each fold at its epoch."""
    rows = list(zip(folds, epochs, images, strict=True))
    probabilities = np.concatenate([fold.probabilities[epoch][some] for fold, epoch, some in rows])
    targets = np.concatenate([fold.targets[some] for fold, _, some in rows])
    once = np.ones((len(targets), 1))
    return weighted_scores(probabilities.astype(np.float64), targets, once)


def _draws(
    folds: Sequence[FoldChoices], resamples: int, random: np.random.Generator, *, alone: bool
) -> list[Floats]:
    """How often each image of each fold is drawn, [N, R].

    Units are drawn with replacement within their class and fold. Otherwise an epoch that predicts
    one class would look good in resamples with many images of it, which leave few of them out, and
    too much optimism would be found. Classes with one unit in a fold are drawn together, because
    it would never be left out. alone: whether images that are in several folds (repeats) may be
    drawn in one and left out in another, as they may where only epochs are chosen, fold by fold.
    """
    units = [fold.units for fold in folds]
    if alone:
        base = max(int(one.max()) for one in units) + 1
        units = [one + number * base for number, one in enumerate(units)]
    joined, targets = np.concatenate(units), np.concatenate([fold.targets for fold in folds])
    fold_of = np.repeat(np.arange(len(folds)), [len(one) for one in units])
    _, first, unit_of = np.unique(joined, return_index=True, return_inverse=True)
    strata = np.stack([fold_of[first], targets[first]])
    _, stratum_of, sizes = np.unique(strata, axis=1, return_inverse=True, return_counts=True)
    strata[1, sizes[stratum_of] == 1] = -1
    _, stratum_of = np.unique(strata, axis=1, return_inverse=True)
    drawn = np.zeros((len(first), resamples))
    for stratum in range(int(stratum_of.max()) + 1):
        members = np.flatnonzero(stratum_of == stratum)
        shares = np.full(len(members), 1 / len(members))
        drawn[members] = random.multinomial(len(members), shares, size=resamples).T
    ends = np.cumsum([len(one) for one in units])[:-1]
    return [drawn[part] for part in np.split(unit_of, ends)]


def _chosen_epochs(config: ConfigChoices, fold: FoldChoices, weights: Floats) -> Labels:
    """Position of the epoch that each resample of the fold's images chooses [R]."""
    resamples = weights.shape[1]
    if len(fold.probabilities) == 1:
        return np.zeros(resamples, dtype=np.int64)
    name = config.resampled_monitor
    curves = np.stack(
        [
            weighted_scores(epoch.astype(np.float64), fold.targets, weights, (name,)).scores[name]
            for epoch in fold.probabilities
        ]
    )
    curves *= METRICS[name].factor
    chosen = np.empty(resamples, dtype=np.int64)
    for r in range(resamples):
        state = config.rule
        for epoch, value in enumerate(curves[:, r].tolist(), start=1):
            state = state.after(epoch, None if np.isnan(value) else value)
            if state.should_stop:
                break
        chosen[r] = state.epoch - 1
    return chosen


def _chosen_configs(
    configs: Sequence[ConfigChoices],
    epochs: Sequence[Sequence[Labels]],
    choosing: Sequence[Floats],
    name: str,
) -> Labels:
    """Position of the config with the best mean of a metric over folds in each resample [R]."""
    sign = -1 if METRICS[name].lower_is_better else 1
    means = np.zeros((len(configs), choosing[0].shape[1]))
    for place, config in enumerate(configs):
        for fold, chosen, weights in zip(config.folds, epochs[place], choosing, strict=True):
            for epoch in np.unique(chosen):
                those = np.flatnonzero(chosen == epoch)
                found = weighted_scores(
                    fold.probabilities[epoch].astype(np.float64),
                    fold.targets,
                    weights[:, those],
                    (name,),
                ).scores[name]
                means[place, those] += sign * np.nan_to_num(found) / len(config.folds)
    best: Labels = means.argmax(axis=0)
    return best
