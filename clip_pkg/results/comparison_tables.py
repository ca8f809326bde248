"""Tables of a comparison, for the terminal, Markdown, LaTeX and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clip_pkg.metrics.table import HEADLINE_METRICS, METRICS
from clip_pkg.results.comparison_records import (
    AcrossDataSets,
    Comparison,
    DataSetComparison,
    Interval,
    PairResult,
    Spread,
    spread_of,
)
from clip_pkg.results.pretraining_rows import NO_PRETRAINING
from clip_pkg.results.tables import Table

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


def title(metric: str) -> str:
    """Heading of a score's column, with its unit: `Bal. acc %`, `Macro F1`."""
    row = METRICS[metric]
    return f"{row.short_heading or row.heading} {row.unit_sign}".rstrip()


def shown_score(value: float | None, metric: str, *, sign: str = "") -> str:
    """`92.13`, `0.921`, with `sign="+"` `+92.13`; a dash where undefined."""
    if value is None:
        return UNDEFINED
    return f"{value:{sign}.{METRICS[metric].digits}f}".replace("-", "−")


def shown_spread(spread: Spread | None, metric: str) -> str:
    """`92.13 ± 1.20`; only the mean for a single fold."""
    if spread is None:
        return UNDEFINED
    deviation = "" if spread.sd is None else f" ± {shown_score(spread.sd, metric)}"
    return shown_score(spread.mean, metric) + deviation


def shown_test_accuracy(summary: Mapping[str, Any]) -> str:
    """Mean ± SD of the models of the folds; empty for a config without test images."""
    test = summary["test"]
    if test is None:
        return ""
    return shown_spread(spread_of(test["average_results"], "acc", "test"), "acc")


def shown_interval(interval: Interval | None, metric: str) -> str:
    """`90.01 to 94.20`."""
    if interval is None:
        return UNDEFINED
    return f"{shown_score(interval.low, metric)} to {shown_score(interval.high, metric)}"


def shown_estimate(value: float | None, interval: Interval | None, metric: str) -> str:
    """`92.13 (90.01 to 94.20)`."""
    text = shown_score(value, metric)
    return text if None in (value, interval) else f"{text} ({shown_interval(interval, metric)})"


def shown_headline(block: Mapping[str, Any], metric: str) -> str:
    """A score of a summary's headline: `89.81 (77.10 to 95.85)`."""
    limits = block["intervals"][metric]
    interval = None if limits is None else Interval(*limits)
    return shown_estimate(block["scores"][metric], interval, metric)


def shown_p(p: float | None) -> str:
    """`0.012`, `< 0.001`."""
    return UNDEFINED if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def tables(comparison: Comparison) -> list[Table]:
    """All tables: two to four per data set, and one across them."""
    found = []
    for one in comparison.data_sets:
        if one.pretraining:
            found.append(pretraining_table(one))
        found += [headline_table(one, comparison), leaderboard(one, comparison)]
        found.append(epoch_table(one, comparison))
        if one.pairs:
            found.append(pair_table(one.pairs, one, comparison))
    if comparison.across is not None:
        found.append(rank_table(comparison.across, comparison.metric))
    return found


def leaderboard(one: DataSetComparison, comparison: Comparison) -> Table:
    """One row per config; the majority class and the untrained leading config for reference."""
    metric = comparison.metric
    metrics = list(dict.fromkeys([*(row.name for row in HEADLINE_METRICS), metric]))
    scores = [row.best if comparison.epoch == "best" else row.last for row in one.rows]

    def cells(spreads: Mapping[str, Spread]) -> tuple[str, ...]:
        return tuple(shown_spread(spreads.get(name), name) for name in metrics)

    return Table(
        f"{one.name}: mean ± SD over folds at the {comparison.epoch} epoch",
        ("Config", "Folds", *map(title, metrics)),
        tuple(
            (row.name, row.folds_cell, *cells(spreads))
            for row, spreads in zip(one.rows, scores, strict=True)
        ),
        reference=tuple((base.name, "", *cells(base.scores)) for base in one.baselines[:2]),
    )


def epoch_table(one: DataSetComparison, comparison: Comparison) -> Table:
    """The compared score of each config: over folds at both epochs, and of pooled predictions."""
    metric = comparison.metric
    rows = []
    for row in one.rows:
        pooled = row.pooled.get(metric)
        out = UNDEFINED if pooled is None else shown_estimate(pooled.value, pooled.interval, metric)
        spreads = (shown_spread(scores[metric], metric) for scores in (row.best, row.last))
        rows.append((row.name, *spreads, out))
    pooled_title = f"Pooled, {comparison.epoch} epoch ({comparison.level:.0%} CI)"
    columns = ("Config", "Best epoch, mean of folds", "Last epoch, mean of folds", pooled_title)
    return Table(f"{one.name}: {title(metric)} before any correction", columns, tuple(rows))


def headline_table(one: DataSetComparison, comparison: Comparison) -> Table:
    """The headline of each config with its interval and rule; last, the best one's as a winner."""
    metric = comparison.metric
    rows = []
    for row in one.rows:
        headline = row.headline
        if headline is None:
            continue
        found, removed = headline.scores[metric], headline.optimism_removed.get(metric)
        shown = shown_estimate(found.value, found.interval, metric)
        rows.append((row.name, shown, shown_score(removed, metric), headline.rule))
    if one.winner is not None:
        best = one.winner
        shown = shown_estimate(best.value, best.interval, metric)
        rule = f"best of {best.n_configs}, corrected"
        rows.append((best.name, shown, shown_score(best.optimism_removed, metric), rule))
    columns = ("Config", f"{title(metric)}, pooled (95% CI)", "Optimism removed", "Rule")
    return Table(f"{one.name}: headline", columns, tuple(rows))


def pair_table(
    pairs: Sequence[PairResult], one: DataSetComparison, comparison: Comparison
) -> Table:
    """One row per pair, the better config first."""
    percent = f"{comparison.level:.0%}"
    columns = (
        "Better − other",
        f"Difference ({percent} CI)",
        "Corrected p",
        "Holm p",
        "d",
        "Found with 80% power",
        "McNemar p",
        f"Pooled ({percent} CI)",
    )
    rows = []
    for pair in pairs:
        test, metric = pair.test, pair.metric
        interval = None
        if test is not None and test.low is not None and test.high is not None:
            interval = Interval(test.low, test.high)
        rows.append(
            (
                f"{pair.first} − {pair.second}",
                shown_estimate(pair.difference, interval, metric),
                shown_p(None if test is None else test.p),
                shown_p(pair.p_holm),
                UNDEFINED if test is None or test.effect is None else f"{test.effect:.2f}",
                shown_score(pair.detectable, metric),
                shown_p(pair.mcnemar.p_mid),
                shown_estimate(pair.pooled_difference, pair.bootstrap, metric),
            )
        )
    what = f"{one.name}: differences in {comparison.metric_name} at the {comparison.epoch} epoch"
    return Table(f"{what}, means of folds unless pooled", columns, tuple(rows))


def rank_table(across: AcrossDataSets, metric: str) -> Table:
    """One row per config, the best first: mean rank, and the score on each data set."""
    order = sorted(range(len(across.configs)), key=lambda index: across.mean_ranks[index])
    rows = tuple(
        (
            across.configs[index],
            f"{across.mean_ranks[index]:.2f}",
            *(shown_score(scores[index], metric) for scores in across.scores),
        )
        for index in order
    )
    columns = ("Config", "Mean rank", *across.data_sets)
    return Table(f"Mean ranks over data sets by {METRICS[metric].title}", columns, rows)


def pretraining_table(one: DataSetComparison) -> Table:
    """One row per loss of the pre-training, the best first; without columns that are empty."""
    rows = one.pretraining
    baselines = [row.top_1.mean for row in rows if row.label == NO_PRETRAINING]
    baseline = baselines[0] if len(baselines) == 1 else None
    cells = []
    for row in rows:
        gain = None
        if row.label != NO_PRETRAINING and baseline is not None and row.top_1.mean is not None:
            gain = row.top_1.mean - baseline
        minutes = UNDEFINED if row.seconds.mean is None else f"{row.seconds.mean / 60:.1f}"
        cells.append(
            (
                row.label,
                str(row.n_seeds),
                shown_spread(row.top_1, "acc"),
                shown_spread(row.top_5, "acc"),
                _rounded(gain, sign="+"),
                minutes,
                _rounded(row.effective_rank.mean, row.effective_rank.sd),
                shown_spread(row.knn_acc, "acc"),
                _rounded(row.probe_gain.mean, row.probe_gain.sd, sign="+"),
                "; ".join(row.notes),
            )
        )
    columns = list(zip(*cells, strict=True))
    kept = [place for place, column in enumerate(columns) if set(column) != {UNDEFINED}]
    return Table(
        f"{one.name}: pre-training losses, mean ± SD over n seeds, on {rows[0].scores_of}",
        tuple(PRETRAINING_COLUMNS[place] for place in kept),
        tuple(tuple(row[place] for place in kept) for row in cells),
        words=frozenset({0, len(kept) - 1}),
    )


def _rounded(mean: float | None, sd: float | None = None, *, sign: str = "") -> str:
    """`41.2 ± 3.0`, `+12.1`; a dash where undefined."""
    if mean is None:
        return UNDEFINED
    text = f"{mean:{sign}.1f}".replace("-", "−")
    return text if sd is None else f"{text} ± {sd:.1f}"
