"""Tables of results, failures and profiles, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from clip_pkg.base.wrapping import NameTable, Parts
from clip_pkg.launch.terminal import shortened
from clip_pkg.metrics.table import HEADLINE_METRICS
from clip_pkg.results.comparison_records import folds_cell, spread_of
from clip_pkg.results.comparison_tables import (
    UNDEFINED,
    shown_headline,
    shown_spread,
    shown_test_accuracy,
    title,
)
from clip_pkg.study.progress import FoldProfile
from clip_pkg.study.tasks import FoldFailure, Task

WIDTH_WITHOUT_METRICS, WIDTH_OF_METRIC = 50, 15  # columns of the terminal


def results_table(summaries: Sequence[Mapping[str, Any]], *, width: int) -> Table:
    """One row per config: the headline's accuracy, and mean ± SD over folds at the best epoch.

    width: of the terminal; metrics that do not fit are left out.
    """
    table = NameTable(
        title="Headline: without what choosing the epoch added (95 % CI); others: mean ± SD over "
        "folds at the best epoch"
    )
    prefix, names = shortened([summary["config"]["name"] for summary in summaries])
    table.add_column("Config", overflow="fold")
    is_tested = any(summary["test"] for summary in summaries)
    room = (width - WIDTH_WITHOUT_METRICS) // WIDTH_OF_METRIC - is_tested
    metrics = [row.name for row in HEADLINE_METRICS][: max(1, room)]
    headings = ["Folds", "Headline acc %", *map(title, metrics)]
    for heading in [*headings, "Test acc %"] if is_tested else headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.caption = f"… stands for {prefix}" if prefix else None
    for name, summary in zip(names, summaries, strict=True):
        best, headline = summary["average_results"], summary.get("headline")
        table.add_row(
            Parts(name),
            folds_cell(best["n"], summary["n_folds"], summary["config"].get("n_repeats", 1)),
            UNDEFINED if headline is None else shown_headline(headline, "acc"),
            *(shown_spread(spread_of(best, one), one) for one in metrics),
            *([shown_test_accuracy(summary)] if is_tested else []),
        )
    return table


def failures_table(failures: Sequence[tuple[Task, FoldFailure]]) -> Table:
    """One row per fold that failed: why, and where to read more."""
    table = NameTable(title="Failed folds", title_style="bold red")
    table.add_column("Config", overflow="fold")
    table.add_column("Fold", justify="right")
    table.add_column("Reason", overflow="fold", ratio=2)
    table.add_column("Log", overflow="fold", ratio=1)
    for task, failure in failures:
        reason = Text(f"{failure.kind}: {failure.reason}")  # as it is: brackets are not markup
        table.add_row(Parts(task.name), task.short_title, reason, Text(failure.log_file))
    return table


def profile_table(found: FoldProfile) -> Table:
    """One row per phase: seconds and percent."""
    table = Table()
    table.add_column("Phase")
    for name in ("Seconds", "%"):
        table.add_column(name, justify="right")
    for row in found.rows():
        table.add_row(*row)
    return table
