"""Tables of the report: the comparison's, with more columns, and those of a single config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clip_pkg.base.errors import shown
from clip_pkg.metrics.table import HEADLINE_METRICS
from clip_pkg.report.curves import wilson_interval
from clip_pkg.report.loss_words import short_loss
from clip_pkg.report.results import ConfigOutcome, Run
from clip_pkg.results import comparison_tables
from clip_pkg.results.comparison_records import DataSetComparison, PairResult, spread_of
from clip_pkg.results.comparison_tables import (
    UNDEFINED,
    shown_interval,
    shown_spread,
    title,
)
from clip_pkg.results.tables import Table


def leaderboard(run: Run, data_set: DataSetComparison) -> Table:
    """The comparison's leaderboard, with losses, intervals, the other epoch and test accuracy."""
    comparison, metric = run.comparison, run.comparison.metric
    rows = data_set.rows
    outcomes = [run.outcome_of(row) for row in rows]
    other = "last" if comparison.epoch == "best" else "best"
    table = comparison_tables.leaderboard(data_set, comparison)
    table = replace(
        table,
        title=f"Scores at the {comparison.epoch} epoch, mean ± sample SD (ddof 1) over folds. "
        f"Configurations are ranked by {comparison.metric_name}; the confidence interval (of the "
        f"score pooled over {data_set.n_images} images) and the {other} epoch are given for it.",
        best=_best_cells(run, data_set),
        rows=tuple((shown(name), *cells) for name, *cells in table.rows),
        reference=tuple((shown(name), *cells) for name, *cells in table.reference),
    )
    table = table.with_column(1, "Loss", [short_loss(one.config) for one in outcomes], words=True)
    pooled = [row.pooled.get(metric) for row in rows]
    intervals = [shown_interval(one.interval if one else None, metric) for one in pooled]
    others = [shown_spread(getattr(row, other)[metric], metric) for row in rows]
    end = len(table.columns)
    table = table.with_column(end, f"{comparison.level:.0%} CI", intervals)
    table = table.with_column(end + 1, f"{other.capitalize()} epoch", others)
    if any(one.summary["test"] for one in outcomes):
        table = table.with_column(
            end + 2, f"Test {title('acc').lower()}", list(map(_tested, outcomes))
        )
    return table


def _tested(outcome: ConfigOutcome) -> str:
    """Accuracy on the test images; empty for a config without test images."""
    test = outcome.summary["test"]
    return (
        ""
        if test is None
        else shown_spread(spread_of(test["average_results"], "acc", "test"), "acc")
    )


def _best_cells(run: Run, data_set: DataSetComparison) -> frozenset[tuple[int, int]]:
    """Cells with the highest mean of their column, if several configs are compared."""
    found: set[tuple[int, int]] = set()
    for column, score in enumerate(HEADLINE_METRICS, start=2):
        means = [getattr(row, run.comparison.epoch)[score.name].mean for row in data_set.rows]
        known = [mean for mean in means if mean is not None]
        if known and min(known) < max(known):
            found |= {(row, column) for row, mean in enumerate(means) if mean == max(known)}
    return frozenset(found)


def pair_table(run: Run, data_set: DataSetComparison, pairs: Sequence[PairResult]) -> Table:
    """The comparison's table of pairs, with verdicts."""
    table = comparison_tables.pair_table(pairs, data_set, run.comparison)
    table = replace(
        table,
        title=f"Differences in {run.comparison.metric_name} between configurations on the same "
        "folds: corrected resampled t-test (Nadeau and Bengio 2003), p adjusted by Holm's method, "
        "Cohen's d over folds, mid-p McNemar test and bootstrap of out-of-fold predictions.",
        rows=tuple((shown(name), *cells) for name, *cells in table.rows),
    )
    return table.with_column(len(table.columns), "Verdict", [p.verdict for p in pairs], words=True)


def losses_table(data_set: DataSetComparison) -> Table | None:
    """A row per loss of the pre-trainings; None without a pre-training."""
    if not data_set.pretraining:
        return None
    table = comparison_tables.pretraining_table(data_set)
    return replace(table, title=table.title.partition(": ")[2].capitalize() + ".")


def class_table(outcome: ConfigOutcome) -> Table:
    """One-vs-rest scores of each class, out of fold."""
    counts = outcome.confusion
    low, high = wilson_interval(counts.diagonal().astype(float), counts.sum(axis=1))
    rows = []
    for place, (name, scores) in enumerate(
        zip(outcome.classes, outcome.summary["per_class"].values(), strict=True)
    ):
        interval = UNDEFINED
        if scores["recall"] is not None:
            interval = f"{low[place]:.3f} to {high[place]:.3f}"
        others = [scores[key] for key in ("precision", "f1", "average_precision", "auroc")]
        rows.append(
            (
                name,
                f"{scores['support']}",
                f"{scores['predicted']}",
                _fraction(scores["recall"]),
                interval,
                *map(_fraction, others),
            )
        )
    columns = ("Class", "n", "Predicted", "Recall", "95 % CI", "Precision", "F1")
    return Table(
        "Scores per class over all out-of-fold predictions, each class against the rest; CI: "
        "Wilson.",
        (*columns, "Average precision", "AUROC"),
        tuple(rows),
    )


def _fraction(value: float | None) -> str:
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
        "Numerics version": outcome.files.identity.numerics,
        "Splits": outcome.folds_info["method"],
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
    return Table(f"Provenance of {outcome.name}", ("What", "Value"), rows, words=frozenset({0, 1}))
