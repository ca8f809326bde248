"""Results of a comparison as plain frozen records, from which every table and report is made.

Scores have the units of the history: `acc`, `balanced_acc` and `mAP` in percent, the others as
fractions. A difference is always first minus second, in the same unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from clip_pkg.metrics.table import METRICS
from clip_pkg.results.folders import Epoch

if TYPE_CHECKING:  # scipy.stats takes half a second to import, and every command shows scores
    from clip_pkg.results.ranks import FriedmanTest
    from clip_pkg.results.statistics import McNemarTest, ResampledTest

SCHEMA_VERSION = 1
# `better`: the first config is significantly better. `undecided`: no significant difference.
# `tie`: identical predictions. `untested`: a single fold, or equal differences in all folds.
Verdict: TypeAlias = Literal["better", "undecided", "tie", "untested"]


@dataclass(frozen=True)
class Question:
    """Options of a comparison.

    metric: what configs are ranked and tested by. epoch: the best epoch of each fold, or the last.
    level: of intervals; p below 1 − level is significant. seed: of bootstrap and permutations.
    """

    metric: str
    epoch: Epoch
    level: float
    seed: int

    @property
    def metric_name(self) -> str:
        return METRICS[self.metric].title

    @property
    def lower_is_better(self) -> bool:
        return METRICS[self.metric].lower_is_better


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, in the unit of the score."""

    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over the `n` folds where a score is defined."""

    mean: float | None
    sd: float | None
    n: int


def spread_of(
    averages: Mapping[str, Any], metric: str, split: Literal["val", "test"] = "val"
) -> Spread:
    """Read a score's mean, deviation and number of folds from the averages of a summary."""
    column = f"{split}_{metric}"
    return Spread(
        mean=averages.get(f"avg_{column}"),
        sd=averages.get(f"std_{column}"),
        n=int(averages.get(f"n_{column}", averages["n"])),
    )


@dataclass(frozen=True)
class Pooled:
    """A score over all out-of-fold predictions at once, with its bootstrap interval."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Headline:
    """Scores of a config that no choice on the reported images has flattered.

    rule: as in `cv_summary.json`. means: the rule in words. scores: by score, with their intervals.
    optimism_removed: by score; empty unless the rule is `bias corrected`.
    """

    rule: str
    means: str
    level: float
    scores: Mapping[str, Pooled]
    optimism_removed: Mapping[str, float]

    @classmethod
    def from_json(cls, block: Mapping[str, Any]) -> Headline:
        scores = {
            name: Pooled(value, None if limits is None else Interval(*limits))
            for name, value in block["scores"].items()
            for limits in [block["intervals"][name]]
        }
        removed = block["optimism_removed"] or {}
        return cls(block["rule"], block["means"], block["level"], scores, removed)


@dataclass(frozen=True)
class LeaderboardRow:
    """One config on one data set; rows are sorted, the best first.

    name: unique within the data set: the config's name, after its parent folders if several
        configs have the same name.
    config: the config's own name.
    folder: of its results. splits_hash: of its folds; only equal ones are compared.
    best, last: by score, over folds at the best and at the last epoch.
    pooled: by score, out of fold at the compared epoch; empty while no fold is done.
    n_pooled: images in `pooled`; each has a prediction per repeat.
    n_folds: of all `n_repeats` divisions of the images.
    epoch_choice: how the best epoch was chosen, in words.
    budget: how much training it had, in words.
    fold_scores: the compared metric of each fold at the compared epoch; None for a missing fold.
    headline: None while no fold is done.
    """

    name: str
    config: str
    folder: str
    splits_hash: str
    folds_done: int
    n_folds: int
    n_repeats: int
    best: Mapping[str, Spread]
    last: Mapping[str, Spread]
    pooled: Mapping[str, Pooled]
    n_pooled: int
    epoch_choice: str
    budget: str
    fold_scores: tuple[float | None, ...]
    headline: Headline | None = None

    def spread(self, question: Question) -> Spread:
        """The compared score over folds, at the compared epoch."""
        return (self.best if question.epoch == "best" else self.last)[question.metric]

    def score(self, question: Question) -> float | None:
        """What configs are ranked by: the headline, or the last epoch where that is asked for."""
        if question.epoch == "last" or self.headline is None:
            return self.spread(question).mean
        found = self.headline.scores.get(question.metric)
        return None if found is None else found.value

    @property
    def folds_cell(self) -> str:
        """`5/5`, or `20/20 (4 × 5)`: finished and planned folds, repeats × folds of each."""
        return folds_cell(self.folds_done, self.n_folds, self.n_repeats)


def folds_cell(done: int, planned: int, repeats: int) -> str:
    """Folds of a config in a table: `5/5`, or `20/20 (4 × 5)` for four repeats of five folds."""
    return f"{done}/{planned}" + (f" ({repeats} × {planned // repeats})" if repeats > 1 else "")


@dataclass(frozen=True)
class Baseline:
    """A score without training: `majority class`, or `untrained <name>` for each config."""

    name: str
    scores: Mapping[str, Spread]


@dataclass(frozen=True)
class Winner:
    """The best config by the headline, and what being chosen among several added to it.

    value, interval: of the compared metric, after `optimism_removed` was subtracted, which covers
    the choice of epochs too; all in its unit. n_configs: that it was chosen from.
    """

    name: str
    n_configs: int
    value: float | None
    interval: Interval | None
    optimism_removed: float


@dataclass(frozen=True)
class PairResult:
    """Two configs on identical folds; `first` is ranked above `second`.

    test: corrected resampled t-test over folds; None for a single fold.
    p_holm: its p, adjusted for all pairs of the data set.
    detectable: smallest difference that this test would have found with 80 % power, judged as the
        first of Holm's steps; None without a variance.
    mcnemar: on out-of-fold predictions, those of the first repeat if there are several.
    pooled_difference: of the scores over all out-of-fold predictions.
    bootstrap: its interval, resampling images and keeping the models.
    sentence: the finding in words.
    """

    first: str
    second: str
    metric: str
    difference: float | None
    test: ResampledTest | None
    p_holm: float | None
    detectable: float | None
    mcnemar: McNemarTest
    pooled_difference: float | None
    bootstrap: Interval | None
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class PretrainingRow:
    """Configs that differ in their seed only: mean and deviation over these configs.

    label: the loss of their pre-training, or `no pre-training`.
    configs, seeds: one entry per config. scores_of: `test images` or `held-out images`.
    top_1, top_5: accuracies in percent; top_5 is undefined with five classes or fewer.
    seconds: of all pre-trainings of a config. effective_rank: of the features at the end.
    knn_acc, probe_acc: of the encoder alone. probe_gain: probe_acc minus that before training.
    epochs: of the pre-training; 0 without one. notes: remarks for the reader.
    runs, folds: folders of the pre-trainings and of the folds; each has a history.json.
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

    @property
    def n_seeds(self) -> int:
        return len(self.configs)


@dataclass(frozen=True)
class Refusal:
    """Configs that are not compared, and why. is_damaged: because of a file that is damaged."""

    configs: tuple[str, ...]
    reason: str
    is_damaged: bool = False


@dataclass(frozen=True)
class DataSetComparison:
    """All configs that were trained on one set of images.

    name: of the folder that holds their results.
    grouped: whether the bootstrap draws groups of images instead of single images.
    pretraining: the same configs by the loss of their pre-training; empty if no config has one.
    winner: the leader's headline, less what being the best of several configs added to it; None
        for a single config, for last epochs, and for too many images.
    """

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    n_images: int
    grouped: bool
    rows: tuple[LeaderboardRow, ...]
    baselines: tuple[Baseline, ...]
    pairs: tuple[PairResult, ...]
    refusals: tuple[Refusal, ...]
    pretraining: tuple[PretrainingRow, ...] = ()
    winner: Winner | None = None

    @property
    def leader(self) -> LeaderboardRow:
        """The best config among those that are compared with another; without pairs, the best."""
        compared = {name for pair in self.pairs for name in (pair.first, pair.second)}
        return next((row for row in self.rows if row.name in compared), self.rows[0])

    @property
    def n_tests(self) -> int:
        """Pairs with a p-value, which Holm's method adjusts for."""
        return sum(pair.p_holm is not None for pair in self.pairs)

    def main_pairs(self, limit: int) -> tuple[PairResult, ...]:
        """All pairs, or only those with the leader if there are more than `limit`."""
        if len(self.pairs) <= limit:
            return self.pairs
        name = self.leader.name
        return tuple(pair for pair in self.pairs if name in (pair.first, pair.second))


@dataclass(frozen=True)
class AcrossDataSets:
    """Mean ranks (1 is the best) of the configs that all data sets share.

    scores: [data set][config] means over folds at the compared epoch.
    friedman: None with fewer than three configs.
    critical_difference: Nemenyi's, at `1 − level`; smaller differences in rank are not significant.
    cliques: maximal groups without a significant difference, by position in `configs`.
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
class Comparison(Question):
    """Result of `compare`, with the options that it was made by.

    refusals: unreadable folders, and data sets that share no configs; refusals within a data set
        are in its record.
    findings: sentences, the most important first.
    """

    data_sets: tuple[DataSetComparison, ...]
    across: AcrossDataSets | None
    refusals: tuple[Refusal, ...]
    findings: tuple[str, ...]

    @property
    def reasons(self) -> list[str]:
        """Reasons why something was not compared, those within the data sets included."""
        inside = (refusal for one in self.data_sets for refusal in one.refusals)
        return [refusal.reason for refusal in (*self.refusals, *inside)]

    def main_findings(self, limit: int) -> list[str]:
        """Findings without those on pairs that `main_pairs` leaves out."""
        pairs = {pair.sentence for one in self.data_sets for pair in one.pairs}
        shown = {pair.sentence for one in self.data_sets for pair in one.main_pairs(limit)}
        return [sentence for sentence in self.findings if sentence not in pairs - shown]

    def to_json(self) -> dict[str, Any]:
        """JSON values; null where undefined."""
        return {
            "schema_version": SCHEMA_VERSION,
            "metric": self.metric,
            "metric_name": self.metric_name,
            "lower_is_better": self.lower_is_better,
            **asdict(self),
        }
