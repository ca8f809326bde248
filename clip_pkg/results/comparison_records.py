"""What a comparison of configs says: plain frozen records, the contract of every table and report.

Scores are in the units of histories: `acc`, `balanced_acc` and `mAP` in percent, the others as
fractions. A difference is always first minus second, in the same unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from clip_pkg.metrics.table import METRICS
from clip_pkg.results.bootstrap import Interval

if TYPE_CHECKING:  # scipy's tests take half a second, and every command shows scores
    from clip_pkg.results.ranks import FriedmanTest
    from clip_pkg.results.statistics import McNemarTest, ResampledTest

SCHEMA_VERSION = 1
Epoch: TypeAlias = Literal["best", "last"]
# `better`: the first config is better, unlikely by chance. `undecided`: cannot be told apart.
# `tie`: identical predictions. `untested`: one split only, or folds that leave nothing to test.
Verdict: TypeAlias = Literal["better", "undecided", "tie", "untested"]


@dataclass(frozen=True)
class Question:
    """What is asked of all configs.

    metric: what they are ranked and tested by. epoch: the one chosen as best in each fold, or the
    last. level: of intervals; p below 1 − level counts as a difference. seed: of the bootstrap and
    of permutations.
    """

    metric: str
    epoch: Epoch
    level: float
    seed: int

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller score is better."""
        return METRICS[self.metric].lower_is_better


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over the `n` folds where a score is defined."""

    mean: float | None
    sd: float | None
    n: int


@dataclass(frozen=True)
class Pooled:
    """A score over all out-of-fold predictions at once, with its bootstrap interval."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class LeaderboardRow:
    """One config on one data set; rows are sorted, the best first.

    name: unique within the data set: the config's, with its folder's parent in front where two
        configs are called the same.
    config: the config's own name.
    folder: where it lies. splits_hash: of its folds; only equal ones are compared.
    best, last: by score, over folds at the best and at the last epoch.
    pooled: by score, out of fold at the epoch that is compared; empty while no fold is done.
    n_pooled: images in `pooled`.
    epoch_choice: how the best epoch was chosen, in words.
    fold_scores: the compared metric of each fold at the compared epoch; None for a missing fold.
    """

    name: str
    config: str
    folder: str
    splits_hash: str
    folds_done: int
    n_folds: int
    best: Mapping[str, Spread]
    last: Mapping[str, Spread]
    pooled: Mapping[str, Pooled]
    n_pooled: int
    epoch_choice: str
    fold_scores: tuple[float | None, ...]

    def spread(self, question: Question) -> Spread:
        """The compared score over folds, at the compared epoch."""
        return (self.best if question.epoch == "best" else self.last)[question.metric]


@dataclass(frozen=True)
class Baseline:
    """What needs no training: the `majority class`, then each config as `untrained <name>`."""

    name: str
    scores: Mapping[str, Spread]


@dataclass(frozen=True)
class PairResult:
    """Two configs on identical folds; `first` is ranked above `second`.

    test: corrected resampled t-test over folds; None where there is one fold only.
    p_holm: its p, adjusted for all pairs of the data set.
    bootstrap: interval of the pooled difference over images, models held fixed.
    pooled_difference: what it is an interval of.
    sentence: the finding in plain words.
    """

    first: str
    second: str
    metric: str
    difference: float | None
    test: ResampledTest | None
    p_holm: float | None
    mcnemar: McNemarTest
    pooled_difference: float | None
    bootstrap: Interval | None
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class PretrainingRow:
    """Configs with one pre-training and equal settings but for the seed; or those without one.

    label: the loss of the pre-training. configs, seeds: of each. scores_of: `test images` or
        `held-out images`.
    top_1, top_5: accuracies in percent over configs, as everything else is; top_5 is undefined with
        five classes or fewer.
    seconds: of the pre-trainings of a config together. effective_rank: of the features at the end.
    knn_acc, probe_acc: of the encoder alone. probe_gain: over the untrained encoder's probe_acc.
    epochs: of the pre-training; 0 without one. notes: what a reader should know.
    runs, folds: folders of the pre-trainings and of the folds, which have histories.
    """

    label: str
    configs: tuple[str, ...]
    seeds: tuple[int | None, ...]
    scores_of: str
    top_1: Spread
    top_5: Spread
    seconds: Spread
    effective_rank: Spread
    knn_acc: Spread
    probe_acc: Spread
    probe_gain: Spread
    epochs: int
    notes: tuple[str, ...]
    runs: tuple[str, ...]
    folds: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    """Configs that must not be compared, and why."""

    configs: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class DataSetComparison:
    """All configs that were trained on one set of images.

    name: the folder they lie in, as people know it.
    grouped: whether images that belong together were drawn together in the bootstrap.
    resamples: of the bootstrap.
    pretraining: the same configs by the loss of their pre-training; empty if none has any.
    """

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    n_images: int
    grouped: bool
    resamples: int
    rows: tuple[LeaderboardRow, ...]
    baselines: tuple[Baseline, ...]
    pairs: tuple[PairResult, ...]
    refusals: tuple[Refusal, ...]
    pretraining: tuple[PretrainingRow, ...] = ()

    @property
    def leader(self) -> LeaderboardRow:
        """The best config that is compared with another one; without pairs the best of all.

        The best of all may have other folds than all the rest.
        """
        compared = {name for pair in self.pairs for name in (pair.first, pair.second)}
        return next((row for row in self.rows if row.name in compared), self.rows[0])

    @property
    def leaders_pairs(self) -> tuple[PairResult, ...]:
        """The pairs in which the leader is."""
        name = self.leader.name
        return tuple(pair for pair in self.pairs if name in (pair.first, pair.second))


@dataclass(frozen=True)
class AcrossDataSets:
    """The configs that several data sets share, by their mean rank; 1 is the best.

    scores: [data set][config] means over folds at the compared epoch.
    friedman: None with fewer than three configs.
    critical_difference: Nemenyi's, at `1 − level`; configs whose ranks differ by less cannot be
        told apart.
    cliques: the largest groups of such configs, by position in `configs`.
    """

    data_sets: tuple[str, ...]
    configs: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]
    mean_ranks: tuple[float, ...]
    friedman: FriedmanTest | None
    critical_difference: float | None
    cliques: tuple[tuple[int, ...], ...]
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """Everything `compare` finds.

    metric: what configs are ranked and tested by. lower_is_better: which way is up.
    epoch: which epoch's scores are compared.
    level: of every interval; p below 1 − level counts as a difference.
    refusals: folders that cannot be read, and data sets that share nothing; those of a data set are
        in it.
    findings: sentences, the most important first.
    """

    metric: str
    metric_name: str
    lower_is_better: bool
    epoch: Epoch
    level: float
    seed: int
    data_sets: tuple[DataSetComparison, ...]
    across: AcrossDataSets | None
    refusals: tuple[Refusal, ...]
    findings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values, null for undefined."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}
