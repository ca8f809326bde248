"""Tables of the report, as text in cells: for the page, for LaTeX and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clip_pkg.base.errors import shown
from clip_pkg.metrics.table import HEADLINE_METRICS, METRICS
from clip_pkg.report.curves import wilson_interval
from clip_pkg.report.loss_words import short_loss
from clip_pkg.report.results import ConfigOutcome
from clip_pkg.results.comparison_records import (
    Comparison,
    DataSetComparison,
    LeaderboardRow,
    PairResult,
    Spread,
)
from clip_pkg.results.comparison_tables import (
    UNDEFINED,
    pretraining_table,
    shown_p,
    shown_score,
    shown_spread,
)
from clip_pkg.results.config_result import spread_of

SCORES = tuple(metric.name for metric in HEADLINE_METRICS)
MOST_BASELINES = 4  # in the page


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers are aligned right."""

    heading: str
    is_number: bool = True


@dataclass(frozen=True)
class Table:
    """Cells by row; the first one names its row.

    reference: further rows, of what the others are compared with. best: cells (row, column) that
    are the best of their column.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    reference: tuple[tuple[str, ...], ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()


def score_heading(score: str) -> str:
    """`Accuracy, %`, `Macro F1`."""
    metric = METRICS[score]
    return f"{metric.heading}, {metric.unit_sign}" if metric.unit_sign else metric.heading


def spread_text(spread: Spread | None, score: str) -> str:
    """`97.53 ± 1.15`; a dash for a score that was not computed."""
    return UNDEFINED if spread is None else shown_spread(spread, score)


def interval_text(row: LeaderboardRow, score: str) -> str:
    """`96.3 to 98.6`, of the pooled score."""
    pooled = row.pooled.get(score)
    if pooled is None or pooled.interval is None:
        return UNDEFINED
    return (
        f"{shown_score(pooled.interval.low, score)} to {shown_score(pooled.interval.high, score)}"
    )


def losses_table(data_set: DataSetComparison) -> Table | None:
    """A row per loss of the pre-trainings; None without any."""
    if not data_set.pretraining:
        return None
    table = pretraining_table(data_set)
    return Table(
        table.title.partition(": ")[2].capitalize() + ".",
        tuple(map(Column, table.columns, table.of_numbers)),
        table.rows,
    )


def leaderboard(
    comparison: Comparison, data_set: DataSetComparison, outcomes: Mapping[str, ConfigOutcome]
) -> Table:
    """A row per config, the best first, and the baselines below."""
    level = f"{100 * comparison.level:g}"
    name = comparison.metric_name
    other = "last" if comparison.epoch == "best" else "best"
    columns = (
        Column("Configuration", is_number=False),
        Column("Loss", is_number=False),
        Column("Folds"),
        *(Column(score_heading(score)) for score in SCORES),
        Column(f"{level} % CI"),
        Column(f"{other.capitalize()} epoch"),
    )
    rows = tuple(_row(comparison, row, outcomes[row.folder]) for row in data_set.rows)
    tested = [_tested(outcomes[row.folder]) for row in data_set.rows]
    if is_tested := any(tested):
        columns = (*columns, Column("Test accuracy, %"))
        rows = tuple((*row, cell) for row, cell in zip(rows, tested, strict=True))
    baselines = data_set.baselines
    if len(baselines) > MOST_BASELINES:
        baselines = baselines[:2]  # the majority class, and the leader before training
    reference = tuple(
        (
            shown(baseline.name),
            "",
            "",
            *(spread_text(baseline.scores.get(score), score) for score in SCORES),
            "",
            "",
            *([""] if is_tested else []),
        )
        for baseline in baselines
    )
    return Table(
        f"Scores at the {comparison.epoch} epoch, mean ± sample SD (ddof 1) over folds. Ranked by "
        f"{name}, of which are also the confidence interval (of the score pooled over "
        f"{data_set.n_images} images) and the score at the {other} epoch.",
        columns,
        rows,
        reference,
        _best(comparison, data_set),
    )


def _tested(outcome: ConfigOutcome) -> str:
    """Accuracy on the test images; empty for a config without any."""
    test = outcome.summary["test"]
    return (
        ""
        if test is None
        else spread_text(spread_of(test["average_results"], "acc", "test"), "acc")
    )


def _row(comparison: Comparison, row: LeaderboardRow, outcome: ConfigOutcome) -> tuple[str, ...]:
    mine, others = row.best, row.last
    if comparison.epoch == "last":
        mine, others = others, mine
    return (
        shown(row.name),
        short_loss(outcome.config),
        f"{row.folds_done}/{row.n_folds}",
        *(spread_text(mine.get(score), score) for score in SCORES),
        interval_text(row, comparison.metric),
        spread_text(others.get(comparison.metric), comparison.metric),
    )


def _best(comparison: Comparison, data_set: DataSetComparison) -> frozenset[tuple[int, int]]:
    """Cells with the largest mean, where several configs are compared."""
    found: set[tuple[int, int]] = set()
    if len(data_set.rows) < 2:
        return frozenset()
    for column, score in enumerate(SCORES, start=3):
        spreads = [getattr(row, comparison.epoch).get(score) for row in data_set.rows]
        means = [None if one is None else one.mean for one in spreads]
        known = [mean for mean in means if mean is not None]
        if known and min(known) < max(known):
            found |= {(row, column) for row, mean in enumerate(means) if mean == max(known)}
    return frozenset(found)


def pair_table(comparison: Comparison, pairs: Sequence[PairResult]) -> Table:
    """Tests of the differences between configs."""
    digits = METRICS[comparison.metric].digits
    rows = []
    for pair in pairs:
        test = pair.test
        limits = UNDEFINED
        if test is not None and test.low is not None and test.high is not None:
            limits = f"{signed(test.low, digits)} to {signed(test.high, digits)}"
        rows.append(
            (
                f"{shown(pair.first)} − {shown(pair.second)}",
                UNDEFINED if pair.difference is None else signed(pair.difference, digits),
                limits,
                shown_p(test.p if test is not None else None),
                shown_p(pair.p_holm),
                shown_p(pair.mcnemar.p_mid),
                pair.verdict,
            )
        )
    return Table(
        f"Differences in {comparison.metric_name} between configurations on the same folds: "
        "corrected resampled t-test (Nadeau and Bengio 2003), p adjusted after Holm, and mid-p "
        "McNemar test of the pooled answers.",
        (
            Column("Difference of", is_number=False),
            Column("Mean"),
            Column(f"{100 * comparison.level:g} % CI"),
            Column("p"),
            Column("p, Holm"),
            Column("p, McNemar"),
            Column("Verdict", is_number=False),
        ),
        tuple(rows),
    )


def signed(value: float, digits: int) -> str:
    """`+1.20` or `−1.20`, with a true minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def class_table(outcome: ConfigOutcome) -> Table:
    """Scores of each class against the rest, out of fold."""
    counts = outcome.confusion
    low, high = wilson_interval(counts.diagonal().astype(float), counts.sum(axis=1))
    rows = []
    for place, (name, scores) in enumerate(
        zip(outcome.classes, outcome.summary["per_class"].values(), strict=True)
    ):
        interval = UNDEFINED
        if scores["recall"] is not None:
            interval = f"{low[place]:.3f} to {high[place]:.3f}"
        rows.append(
            (
                name,
                f"{scores['support']}",
                f"{scores['predicted']}",
                fraction(scores["recall"]),
                interval,
                *(
                    fraction(scores[key])
                    for key in ("precision", "f1", "average_precision", "auroc")
                ),
            )
        )
    headings = (
        "n",
        "Answers",
        "Recall",
        "95 % CI",
        "Precision",
        "F1",
        "Average precision",
        "AUROC",
    )
    return Table(
        "Scores per class over all out-of-fold answers, each class against the rest; CI: Wilson.",
        (Column("Class", is_number=False), *map(Column, headings)),
        tuple(rows),
    )


def fraction(value: float | None) -> str:
    """`0.962`."""
    return UNDEFINED if value is None else f"{value:.3f}"


def provenance(outcome: ConfigOutcome) -> Table:
    """What a config's numbers follow from."""
    summary = outcome.summary
    seconds = [one for one in summary["timing"]["fold_seconds"] if one is not None]
    facts: dict[str, Any] = {
        "Data fingerprint": summary["data_fingerprint"],
        "Splits hash": summary["splits_hash"],
        "Config digest": summary["identity"]["config"],
        "Class texts digest": summary["identity"]["class_texts"],
        "Code digest": summary["identity"]["code"],
        "Division": outcome.folds_info["method"],
        "Seed": outcome.config.random_state,
        "Choice of the epoch": summary["epoch_choice"],
        "Images were in": outcome.preflight.get("data_dir"),
        **summary["environment"],
        "Time of all folds": f"{sum(seconds):.0f} s",
        "Summary written": summary["timing"]["written"],
    }
    rows = tuple(
        (name, shown(", ".join(value) if isinstance(value, list) else value))
        for name, value in facts.items()
        if value not in (None, "")
    )
    columns = (Column("What", is_number=False), Column("Value", is_number=False))
    return Table(f"Provenance of {outcome.name}", columns, rows)


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Lines of a CSV file; None becomes an empty cell."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return stream.getvalue()
