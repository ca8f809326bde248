"""Findings of a comparison, as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_pkg.base.errors import some
from clip_pkg.metrics.table import METRICS
from clip_pkg.results.comparison_records import (
    AcrossDataSets,
    DataSetComparison,
    Interval,
    LeaderboardRow,
    PairResult,
    Question,
)

FEW_DATA_SETS = 5
MAX_NAMES = 5  # configs in a sentence


def probability(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def rounded(value: float, metric: str) -> str:
    """A score or difference with one decimal place less than in tables: `92.1`, `−2.3`."""
    text = f"{value:.1f}" if METRICS[metric].unit == "percent" else f"{value:.3f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def amount(value: float, metric: str) -> str:
    """`2.3 points of balanced accuracy`, `0.023 of macro F1`."""
    points = " points" if METRICS[metric].unit == "percent" else ""
    return f"{rounded(value, metric)}{points} of {METRICS[metric].title}"


def about_pair(pair: PairResult, pairs: int) -> str:
    """The finding on a pair; `pairs` were tested over folds."""
    first, second, metric = pair.first, pair.second, pair.metric
    test, mcnemar = pair.test, pair.mcnemar
    if pair.verdict == "tie":
        return f"{first} and {second} give identical predictions: a tie"
    if pair.difference is None:
        return (
            f"{first} and {second} cannot be compared: {METRICS[metric].title} is undefined in "
            "their folds"
        )
    if pair.verdict == "untested":
        why = (
            "a single fold does not show how much depends on the split"
            if test is None
            else "all folds differ by the same amount, so there is no variance to test with"
        )
        return (
            f"{first} is ahead of {second} by {amount(abs(pair.difference), metric)}, but {why}; "
            f"of the images that only one of them classifies correctly, {first} has "
            f"{mcnemar.only_first_correct} and {second} {mcnemar.only_second_correct} "
            f"(McNemar mid-{probability(mcnemar.p_mid)})"
        )
    assert test is not None
    assert test.p is not None
    assert test.low is not None
    assert test.high is not None
    assert pair.p_holm is not None
    difference, low, high = amount(abs(test.difference), metric), test.low, test.high
    if test.difference < 0:  # of a score that is better the lower it is
        low, high = -high, -low
    evidence = (
        f"{100 * test.level:g} % CI {rounded(low, metric)} to {rounded(high, metric)}, corrected "
        f"{probability(test.p)}"
    )
    if pairs > 1:
        evidence += f", {probability(pair.p_holm)} after Holm's adjustment for {pairs} pairs"
    if pair.verdict == "better":
        return f"{first} is significantly better than {second}, by {difference} ({evidence})"
    text = (
        f"{first} is not significantly better than {second}: a difference of {difference} "
        f"({evidence})"
    )
    if pair.detectable is None:
        return text
    row = METRICS[metric]
    least, most = row.bounds
    if least is None or most is None or pair.detectable <= row.factor * (most - least):
        points = " points" if row.unit == "percent" else ""
        text += f"; this study would have found a difference of {rounded(pair.detectable, metric)}"
        text += f"{points} with 80 % power"
    else:
        text += "; no possible difference would have been found with 80 % power"
    first_step = (
        f" (at the level {1 - test.level:.2g}/{pairs}, the first step of Holm's adjustment)"
    )
    return text + first_step if pairs > 1 else text


def budget(config: Mapping[str, Any]) -> str:
    """How much training a config had: `30 epochs after a pre-training of 20 epochs`."""
    text = _epochs(config["epochs"])
    if (patience := config.get("early_stopping_patience")) is not None:
        text = f"at most {text} with patience {patience}"
    if aside := config["inner_val_fraction"]:
        text += f" on {100 * (1 - aside):g} % of each training fold"
    if (block := config.get("pretrain")) is not None:
        images = {"train_fold": "", "all": " on all images"}.get(
            block["images"], " on other images"
        )
        text += f" after a pre-training of {_epochs(block['epochs'])}{images}"
    return text


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"


def unequal_budgets(one: DataSetComparison) -> str | None:
    """Warn that more training may explain a difference; None for equal budgets."""
    having: dict[str, list[str]] = {}
    for row in one.rows:
        having.setdefault(row.budget, []).append(row.name)
    if len(having) < 2:
        return None
    listed = ", ".join(f"{words} ({some(names, MAX_NAMES)})" for words, names in having.items())
    return f"{one.name}: the configs did not have the same budget: {listed}"


def standing(one: DataSetComparison, question: Question) -> str:
    """The leading config, and which configs it is significantly better than."""
    metric, leader = question.metric, one.leader
    compared = [
        row
        for row in one.rows
        if row.splits_hash == leader.splits_hash and row.folds_done == row.n_folds
    ]
    led = [pair for pair in one.pairs if pair.first == leader.name]
    worse = [pair.second for pair in led if pair.verdict == "better"]
    similar = [pair.second for pair in led if pair.verdict in ("undecided", "tie")]
    text = (
        f"{one.name}: {leader.name} has the best {METRICS[metric].title} of {len(compared)} "
        f"configs: {_leading_score(leader, question)}"
    )
    if one.winner is not None and one.winner.value is not None:
        corrected = estimate(one.winner.value, one.winner.interval, metric)
        choice = f"the choice of the best of {one.winner.n_configs} configs"
        if corrected in text:
            text += f"; {choice} added nothing"
        else:
            text += f", or {corrected} without what {choice} added"
    if worse:
        text += f"; significantly better than {some(worse, MAX_NAMES)}"
    if similar:
        text += f"; not significantly better than {some(similar, MAX_NAMES)}"
    return text


def _leading_score(leader: LeaderboardRow, question: Question) -> str:
    """The headline with its interval, or mean ± SD over folds at the last epoch."""
    metric, headline = question.metric, leader.headline
    if question.epoch == "best" and headline is not None:
        found = headline.scores[metric]
        return f"{estimate(found.value, found.interval, metric)}, {headline.rule}"
    spread = leader.spread(question)
    deviation = "" if spread.sd is None else f" ± {rounded(spread.sd, metric)}"
    mean = "undefined" if spread.mean is None else rounded(spread.mean, metric) + deviation
    folds = f"over {spread.n} fold{'' if spread.n == 1 else 's'}"
    return " ".join(f"{mean} {METRICS[metric].unit_sign} {folds}".split())


def estimate(value: float | None, interval: Interval | None, metric: str) -> str:
    """`82.1 % (95 % CI 76.0 to 87.2)`."""
    if value is None:
        return "undefined"
    text = f"{rounded(value, metric)} {METRICS[metric].unit_sign}".rstrip()
    if interval is None:
        return text
    return f"{text} (95 % CI {rounded(interval.low, metric)} to {rounded(interval.high, metric)})"


def across_sets(across: AcrossDataSets, level: float) -> str:
    """Mean ranks over several data sets, with Friedman's test."""
    sets, test = len(across.data_sets), across.friedman
    ranked = sorted(zip(across.mean_ranks, across.configs, strict=True))
    listed = ", ".join(f"{name} {rank:.2f}" for rank, name in ranked)
    text = f"Mean ranks over {sets} data sets: {listed}"
    if test is None:
        return f"{text}; Friedman's test needs three configs on every data set"
    found = f"Friedman χ² = {test.chi_square:.2f}, permutation {probability(test.p)}"
    if test.p < 1 - level:
        assert across.critical_difference is not None
        text += (
            f"; they differ significantly ({found}), as do two configs whose ranks are "
            f"{across.critical_difference:.2f} or more apart (Nemenyi)"
        )
    else:
        text += f"; they do not differ significantly ({found})"
    if sets < FEW_DATA_SETS:
        text += f". {sets} data sets are few: only large differences in rank can be detected"
    return text


def no_better_than_majority(
    one: DataSetComparison, row: LeaderboardRow, question: Question
) -> str | None:
    """Warn of a config that may have learned nothing; None for other configs."""
    majority = one.baselines[0].scores.get(question.metric)
    score = row.score(question)
    if majority is None or majority.mean is None or score is None:
        return None
    found = None if row.headline is None else row.headline.scores.get(question.metric)
    lowest = score
    if question.epoch == "best" and found is not None and found.interval is not None:
        lowest = found.interval.low
    if lowest > majority.mean:
        return None
    verdict = "not significantly better" if score > majority.mean else "no better"
    return (
        f"{one.name}: {row.name} is {verdict} than always predicting the most frequent class "
        f"({METRICS[question.metric].title} {rounded(majority.mean, question.metric)})"
    )
