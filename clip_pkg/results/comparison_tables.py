"""A comparison as tables of text, the same on the terminal, in Markdown and in LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from clip_pkg.metrics.table import HEADLINE_METRICS, METRICS
from clip_pkg.results.bootstrap import Interval
from clip_pkg.results.comparison_records import (
    AcrossDataSets,
    Comparison,
    DataSetComparison,
    PairResult,
    PretrainingRow,
    Spread,
)
from clip_pkg.results.pretraining_rows import NO_PRETRAINING

PRETRAINING_COLUMNS = (
    "Pre-training",
    "n",
    "Top-1 %",
    "Top-5 %",
    "Gain",
    "Time, min",
    "Eff. rank",
    "kNN %",
    "Probe gain",
    "Notes",
)
UNDEFINED = "–"


@dataclass(frozen=True)
class TextTable:
    """A title, the columns and cells. The first column names things, all others are numbers.

    has_notes: the last one is words.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    has_notes: bool = False

    @property
    def of_numbers(self) -> tuple[bool, ...]:
        """Which columns are numbers."""
        last = len(self.columns) - 1
        return tuple(n > 0 and not (self.has_notes and n == last) for n in range(last + 1))


def title(metric: str) -> str:
    """Head of a score's column, with its unit: `Bal. acc %`, `Macro F1`."""
    row = METRICS[metric]
    return f"{row.short_heading or row.heading} {row.unit_sign}".rstrip()


def shown_score(value: float | None, metric: str) -> str:
    """`92.13`, `0.921`; a dash where it is undefined."""
    return UNDEFINED if value is None else METRICS[metric].shown(value)


def shown_spread(spread: Spread, metric: str) -> str:
    """`92.13 ± 1.20`; without a deviation where there is one fold."""
    deviation = "" if spread.sd is None else f" ± {shown_score(spread.sd, metric)}"
    return shown_score(spread.mean, metric) + deviation


def shown_interval(value: float | None, interval: Interval | None, metric: str) -> str:
    """`92.13 (90.01 to 94.20)`."""
    if value is None or interval is None:
        return shown_score(value, metric)
    low, high = (shown_score(end, metric) for end in (interval.low, interval.high))
    return f"{shown_score(value, metric)} ({low} to {high})".replace("-", "−")


def shown_p(p: float | None) -> str:
    """`0.012`, `< 0.001`."""
    return UNDEFINED if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def tables(comparison: Comparison) -> list[TextTable]:
    """Every table: two to four per data set, and one across them."""
    found = []
    for one in comparison.data_sets:
        if one.pretraining:
            found.append(pretraining_table(one))
        found += [leaderboard(one, comparison), epoch_table(one, comparison)]
        if one.pairs:
            found.append(pair_table(one.pairs, one, comparison))
    if comparison.across is not None:
        found.append(rank_table(comparison.across, comparison.metric))
    return found


def pretraining_table(one: DataSetComparison) -> TextTable:
    """One row per loss of the pre-training, mean ± SD over seeds; the best first.

    Columns that no row has anything in are left out.
    """
    rows = one.pretraining
    without = [row.top_1.mean for row in rows if row.label == NO_PRETRAINING]

    def cells(row: PretrainingRow) -> Iterator[str]:
        for spread in (row.top_1, row.top_5):
            yield shown_spread(spread, "acc")
        yield _gain(row, without)
        yield UNDEFINED if row.seconds.mean is None else _minutes(row.seconds.mean)
        yield _rounded(row.effective_rank)
        yield shown_spread(row.knn_acc, "acc")
        yield _rounded(row.probe_gain, sign="+")

    whole = [(row.label, str(len(row.configs)), *cells(row), "; ".join(row.notes)) for row in rows]
    columns = list(zip(*whole, strict=True))
    kept = [number for number, column in enumerate(columns) if set(column) != {UNDEFINED}]
    return TextTable(
        f"{one.name}: pre-training losses, mean ± SD over n seeds, on {rows[0].scores_of}",
        tuple(PRETRAINING_COLUMNS[n] for n in kept),
        tuple(tuple(row[n] for n in kept) for row in whole),
        has_notes=True,
    )


def _gain(row: PretrainingRow, without: Sequence[float | None]) -> str:
    """Points of Top-1 above the row without a pre-training, if there is one such row."""
    mean = row.top_1.mean
    if len(without) != 1 or without[0] is None or mean is None or row.label == NO_PRETRAINING:
        return UNDEFINED
    return f"{mean - without[0]:+.1f}".replace("-", "−")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


def _rounded(spread: Spread, sign: str = "") -> str:
    """`41.2 ± 3.0`, `+12.1`; a dash where it is undefined."""
    if spread.mean is None:
        return UNDEFINED
    text = f"{spread.mean:{sign}.1f}".replace("-", "−")
    return text if spread.sd is None else f"{text} ± {spread.sd:.1f}"


def leaderboard(one: DataSetComparison, comparison: Comparison) -> TextTable:
    """One row per config, then the majority class and the leading config before training."""
    metric = comparison.metric
    shown = list(dict.fromkeys([*(row.name for row in HEADLINE_METRICS), metric]))

    def cells(scores: Mapping[str, Spread]) -> Iterator[str]:
        for name in shown:
            yield shown_spread(scores.get(name, Spread(None, None, 0)), name)

    rows = [
        (
            row.name,
            f"{row.folds_done}/{row.n_folds}",
            *cells(row.best if comparison.epoch == "best" else row.last),
        )
        for row in one.rows
    ]
    rows += [(baseline.name, "", *cells(baseline.scores)) for baseline in one.baselines[:2]]
    what = f"{one.name}: mean ± SD over folds at the {comparison.epoch} epoch"
    return TextTable(what, ("Config", "Folds", *map(title, shown)), tuple(rows))


def epoch_table(one: DataSetComparison, comparison: Comparison) -> TextTable:
    """The compared score of each config at both epochs, and out of fold."""
    metric = comparison.metric
    rows = []
    for row in one.rows:
        pooled = row.pooled.get(metric)
        out = UNDEFINED
        if pooled is not None:
            out = shown_interval(pooled.value, pooled.interval, metric)
        spreads = (shown_spread(scores[metric], metric) for scores in (row.best, row.last))
        rows.append((row.name, *spreads, out))
    pooled_title = f"Out of fold, {comparison.epoch} epoch ({comparison.level:.0%} CI)"
    return TextTable(
        f"{one.name}: {title(metric)}",
        ("Config", "Best epoch", "Last epoch", pooled_title),
        tuple(rows),
    )


def pair_table(
    pairs: tuple[PairResult, ...], one: DataSetComparison, comparison: Comparison
) -> TextTable:
    """One row per pair, the better config first."""
    percent = f"{comparison.level:.0%}"
    columns = (
        "Better − other",
        f"Difference ({percent} CI)",
        "Corrected p",
        "Holm p",
        "d",
        "McNemar p",
        f"Out of fold ({percent} CI)",
    )
    rows = []
    for pair in pairs:
        test, metric = pair.test, pair.metric
        reach = None
        if test is not None and test.low is not None and test.high is not None:
            reach = Interval(test.low, test.high)
        rows.append(
            (
                f"{pair.first} − {pair.second}",
                shown_interval(pair.difference, reach, metric),
                shown_p(None if test is None else test.p),
                shown_p(pair.p_holm),
                UNDEFINED if test is None or test.effect is None else f"{test.effect:.2f}",
                shown_p(pair.mcnemar.p_mid),
                shown_interval(pair.pooled_difference, pair.bootstrap, metric),
            )
        )
    what = f"{one.name}: differences of {comparison.metric_name}, {comparison.epoch} epoch"
    return TextTable(what, columns, tuple(rows))


def rank_table(across: AcrossDataSets, metric: str) -> TextTable:
    """One row per config: its mean rank, and its score on each data set; the best first."""
    order = sorted(range(len(across.configs)), key=lambda index: across.mean_ranks[index])
    rows = tuple(
        (
            across.configs[index],
            f"{across.mean_ranks[index]:.2f}",
            *(shown_score(scores[index], metric) for scores in across.scores),
        )
        for index in order
    )
    return TextTable(
        f"Mean ranks over data sets by {METRICS[metric].title}",
        ("Config", "Mean rank", *across.data_sets),
        rows,
    )
