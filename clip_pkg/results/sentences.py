"""What a comparison finds, in plain words."""

from __future__ import annotations

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
NAMED = 5  # configs in a sentence


def probability(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def number(value: float, metric: str) -> str:
    """A score or difference with the digits of its unit: `92.1`, `0.921`; a true minus sign."""
    text = f"{value:.1f}" if METRICS[metric].unit == "percent" else f"{value:.3f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def amount(value: float, metric: str) -> str:
    """`2.3 points of balanced accuracy`, `0.023 of macro F1`."""
    points = " points" if METRICS[metric].unit == "percent" else ""
    return f"{number(value, metric)}{points} of {METRICS[metric].title}"


def interval(one: Interval, metric: str, level: float) -> str:
    """`95 % CI 0.4 to 4.2`."""
    return f"{level:.0%} CI ".replace("%", " %") + (
        f"{number(one.low, metric)} to {number(one.high, metric)}"
    )


def tie(first: str, second: str) -> str:
    """Two configs that say the same about every image."""
    return f"{first} and {second} give identical predictions: a tie"


def tested(pair: PairResult, pairs: int) -> str:
    """A pair with a test over folds, judged already; one of so many `pairs`."""
    test, metric = pair.test, pair.metric
    assert test is not None
    assert test.low is not None
    assert test.high is not None
    assert test.p is not None
    assert pair.p_holm is not None
    low, high = test.low, test.high
    if test.difference < 0:  # of a score that is better the lower it is
        low, high = -high, -low
    evidence = f"{interval(Interval(low, high), metric, test.level)}, corrected "
    evidence += probability(test.p)
    if pairs > 1:
        evidence += f", {probability(pair.p_holm)} after Holm's adjustment for {pairs} pairs"
    difference = amount(abs(test.difference), metric)
    if pair.verdict == "better":
        return (
            f"{pair.first} is better than {pair.second} by {difference} ({evidence}): the "
            "difference is unlikely to be chance"
        )
    return (
        f"{pair.first} and {pair.second} cannot be told apart: {difference} between them "
        f"({evidence})"
    )


def untested(pair: PairResult, why: str) -> str:
    """A pair whose folds leave nothing to test."""
    first, second, mcnemar = pair.first, pair.second, pair.mcnemar
    if pair.difference is None:
        return (
            f"{first} and {second} cannot be compared: {METRICS[pair.metric].title} is "
            "undefined in their folds"
        )
    answers = (
        f"of the images that only one of them gets right, {first} has "
        f"{mcnemar.only_first_correct} and {second} {mcnemar.only_second_correct} "
        f"(McNemar mid-{probability(mcnemar.p_mid)})"
    )
    ahead = amount(abs(pair.difference), pair.metric)
    return f"{first} is ahead of {second} by {ahead}, but {why}; {answers}"


def standing(one: DataSetComparison, question: Question) -> str:
    """Who leads on a data set, and who cannot be told apart from it."""
    metric = question.metric
    leader = one.leader
    met = [
        row
        for row in one.rows
        if row.splits_hash == leader.splits_hash and row.folds_done == row.n_folds
    ]
    led = [pair for pair in one.pairs if pair.first == leader.name]
    worse = [pair.second for pair in led if pair.verdict == "better"]
    alike = [pair.second for pair in led if pair.verdict in ("undecided", "tie")]
    spread = leader.spread(question)
    unit = " %" if METRICS[metric].unit == "percent" else ""
    score = "undefined" if spread.mean is None else number(spread.mean, metric)
    score += "" if spread.sd is None else f" ± {number(spread.sd, metric)}"
    text = (
        f"{one.name}: {leader.name} has the best {METRICS[metric].title} of {len(met)} configs, "
        f"{score}{unit} over {spread.n} fold{'' if spread.n == 1 else 's'}"
    )
    if worse:
        text += f"; better than {some(worse, NAMED)}"
    if alike:
        text += f"; cannot be told apart from {some(alike, NAMED)}"
    return text


def across_sets(across: AcrossDataSets, level: float) -> str:
    """What the ranks over several data sets say."""
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
            f"; they differ ({found}), and two that are {across.critical_difference:.2f} or more "
            "apart (Nemenyi) are unlikely to be so by chance"
        )
    else:
        text += f"; they cannot be told apart ({found})"
    if sets < FEW_DATA_SETS:
        text += f". {sets} data sets are few: only large differences in rank can be seen"
    return text


def no_better_than_majority(
    one: DataSetComparison, row: LeaderboardRow, question: Question
) -> str | None:
    """Warn of a config that has learned nothing; None for one that has."""
    majority = one.baselines[0].scores.get(question.metric)
    mean = row.spread(question).mean
    if majority is None or majority.mean is None or mean is None or mean > majority.mean:
        return None
    return (
        f"{one.name}: {row.name} is no better than always answering the most frequent class "
        f"({METRICS[question.metric].title} {number(majority.mean, question.metric)})"
    )
