"""Tables of the report: the comparison's, with more columns, and tables of a single config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clip_pkg.base.errors import shown
from clip_pkg.metrics.table import HEADLINE_METRICS, METRICS
from clip_pkg.report.results import ConfigOutcome, ReportedRun
from clip_pkg.results.comparison_records import DataSetComparison, LeaderboardRow, PairResult
from clip_pkg.results.comparison_tables import (
    UNDEFINED,
    leaderboard,
    pair_table,
    pretraining_table,
    shown_estimate,
    shown_spread,
    shown_test_accuracy,
)
from clip_pkg.results.tables import Table


def full_leaderboard(run: ReportedRun, data_set: DataSetComparison) -> Table:
    """The comparison's leaderboard, with losses, intervals, the other epoch and test accuracy."""
    comparison, metric, rows = run.comparison, run.comparison.metric, data_set.rows
    outcomes = [run.outcome_of(row) for row in rows]
    other = "last" if comparison.epoch == "best" else "best"
    best: set[tuple[int, int]] = set()  # cells with the highest mean, if several are compared
    for column, score in enumerate(HEADLINE_METRICS, start=2):
        means = [getattr(row, comparison.epoch)[score.name].mean for row in rows]
        known = [mean for mean in means if mean is not None]
        if known and min(known) < max(known):
            best |= {(row, column) for row, mean in enumerate(means) if mean == max(known)}
    table = leaderboard(data_set, comparison)
    scores = dict.fromkeys([*(score.name for score in HEADLINE_METRICS), metric])
    headings = [f"{METRICS[name].heading}, {METRICS[name].unit_sign}" for name in scores]
    table = replace(
        table,
        columns=("Configuration", "Folds", *(heading.removesuffix(", ") for heading in headings)),
        title=f"Scores at the {comparison.epoch} epoch, mean ± sample SD (ddof 1) over folds. "
        f"Configurations are ranked by the headline: {comparison.metric_name} over all "
        f"{data_set.n_images} out-of-fold predictions with its {comparison.level:.0%} confidence "
        "interval, less the optimism of choosing the epoch on the same images (rule: "
        f"{_rules(rows)}). Intervals cover other images, not other training runs. The {other} "
        f"epoch is given for {comparison.metric_name}.",
        best=frozenset(best),
        rows=tuple((shown(name), *cells) for name, *cells in table.rows),
        reference=tuple((shown(name), *cells) for name, *cells in table.reference),
    )
    losses = [
        " + ".join([one.settings.loss.label, *(aux.label for aux in one.settings.aux_losses)])
        for one in outcomes
    ]
    headlines = [
        shown_estimate(found.value, found.interval, metric)
        if row.headline is not None and (found := row.headline.scores.get(metric)) is not None
        else UNDEFINED
        for row in rows
    ]
    others = [shown_spread(getattr(row, other)[metric], metric) for row in rows]
    tested = [shown_test_accuracy(one.summary) for one in outcomes]
    end = len(table.columns) + 1
    table = table.with_column(1, "Loss", losses, words=True)
    table = table.with_column(end, f"{other.capitalize()} epoch", others)
    if any(tested):
        table = table.with_column(end + 1, "Test accuracy, %", tested)
    heading = f"Headline: {METRICS[metric].heading}, {METRICS[metric].unit_sign}".removesuffix(", ")
    return table.with_column(2, heading, headlines)


def _rules(rows: Sequence[LeaderboardRow]) -> str:
    return " or ".join(dict.fromkeys(row.headline.rule for row in rows if row.headline is not None))


def judged_pairs(
    run: ReportedRun, data_set: DataSetComparison, pairs: Sequence[PairResult]
) -> Table:
    """The comparison's table of pairs, with verdicts."""
    table = pair_table(pairs, data_set, run.comparison)
    level = f"{1 - run.comparison.level:.2g}"
    level += f"/{data_set.n_tests}" if data_set.n_tests > 1 else ""
    table = replace(
        table,
        title=f"Differences in {run.comparison.metric_name} between configurations on the same "
        "folds: corrected resampled t-test (Nadeau and Bengio 2003), p adjusted by Holm's method, "
        "Cohen's d over folds, the difference that the test finds with 80 % power at the level "
        f"{level}, mid-p McNemar test (of several repeats, on the first) and the difference "
        "over the pooled out-of-fold predictions.",
        rows=tuple((shown(name), *cells) for name, *cells in table.rows),
    )
    return table.with_column(len(table.columns), "Verdict", [p.verdict for p in pairs], words=True)


def losses_table(data_set: DataSetComparison) -> Table | None:
    """A row per loss of the pre-trainings; None without a pre-training."""
    if not data_set.pretraining:
        return None
    table = pretraining_table(data_set)
    return replace(table, title=table.title.partition(": ")[2].capitalize() + ".")


def class_table(outcome: ConfigOutcome) -> Table:
    """One-vs-rest scores of each class, out of fold."""
    of_recall = () if outcome.intervals is None else outcome.intervals.by_class["recall"]
    intervals = [
        UNDEFINED if one is None else f"{one.low:.3f} to {one.high:.3f}"
        for one in of_recall or [None] * len(outcome.classes)
    ]
    rows = []
    for name, interval, scores in zip(
        outcome.classes, intervals, outcome.summary["per_class"].values(), strict=True
    ):
        recall, *others = (
            UNDEFINED if scores[key] is None else f"{scores[key]:.3f}"
            for key in ("recall", "precision", "f1", "average_precision", "auroc")
        )
        sizes = (str(scores["support"]), str(scores["predicted"]))
        rows.append((name, *sizes, recall, interval, *others))
    columns = ("Class", "n", "Predicted", "Recall", "95 % CI", "Precision", "F1")
    return Table(
        "Scores per class over the pooled out-of-fold predictions, each class against the rest; "
        "CI: Wilson, of the effective number of images where they are grouped.",
        (*columns, "Average precision, pooled", "AUROC, pooled"),
        tuple(rows),
    )


def provenance(outcome: ConfigOutcome) -> Table:
    """Data, splits, versions and settings that a config's numbers follow from."""
    summary = outcome.summary
    seconds = [one for one in summary["timing"]["fold_seconds"] if one is not None]
    facts: dict[str, Any] = {
        "Data fingerprint": summary["data_fingerprint"],
        "Splits hash": summary["splits_hash"],
        "Config digest": summary["identity"]["config"],
        "Class texts digest": summary["identity"]["class_texts"],
        "Code digest": summary["identity"]["code"],
        "Numerics version": outcome.identity.numerics,
        "Splits": outcome.folds_info["method"],
        "Seed": outcome.settings.random_state,
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
    return Table(f"Provenance of {outcome.label}", ("What", "Value"), rows, words=frozenset({0, 1}))
