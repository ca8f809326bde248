"""Scores of all configs and of each class, with intervals."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from clip_pkg.base.errors import shown
from clip_pkg.metrics.table import METRICS
from clip_pkg.report.drawing import (
    BAR,
    FIRST,
    INK,
    MUTED,
    SECOND,
    Caption,
    Drawing,
    draw,
    legend_below,
)
from clip_pkg.report.figures.confusion import shortened_label
from clip_pkg.report.figures.thresholds import CHANCE
from clip_pkg.report.results import ConfigOutcome
from clip_pkg.results.comparison_records import Comparison, DataSetComparison
from clip_pkg.results.comparison_tables import shown_spread, title


def per_class(outcome: ConfigOutcome) -> Drawing:
    """A bar per class for recall, a marker for precision; both with 95 % intervals."""
    counts = outcome.confusion
    right, support, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    rows = np.arange(len(counts))

    def fill(canvas: Figure) -> None:
        axes = canvas.subplots()
        for offset, score, totals, role, marker in (
            (-0.17, "recall", support, FIRST, "o"),
            (0.21, "precision", predicted, SECOND, "D"),
        ):
            known = totals > 0
            share = right[known] / totals[known]
            low, high = share, share
            if outcome.intervals is not None:
                found = outcome.intervals.by_class[score]
                limits = [(one.low, one.high) if one is not None else (0, 1) for one in found]
                low, high = np.array(limits)[known].T
            if role is FIRST:
                axes.barh(rows[known] + offset, share, height=0.42, color=BAR.light, linewidth=0)
            axes.errorbar(
                share,
                rows[known] + offset,
                xerr=[(share - low).clip(0), (high - share).clip(0)],
                fmt=marker,
                color=role.light,
                markersize=4.5,
                elinewidth=1.3,
                label="Recall" if role is FIRST else "Precision",
            )
        for row, count in enumerate(support.tolist()):
            axes.text(1.03, row, f"{count}", va="center", color=INK.light, fontsize=11)
        axes.text(1.03, -0.95, "n", va="center", color=MUTED.light, fontsize=11)
        axes.set_yticks(rows, [shortened_label(name) for name in outcome.classes])
        axes.set(xlim=(0, 1.12), ylim=(len(rows) - 0.4, -1.3))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
        axes.grid(visible=False, axis="y")
        legend_below(canvas, axes)

    hardest = outcome.hardest_class
    caption = Caption(
        "per_class",
        "Scores per class",
        f"Recall and precision of {len(rows)} classes with 95 % intervals and support. Lowest "
        f"recall: {outcome.classes[hardest]}, {right[hardest]} of {support[hardest]} "
        f"{outcome.counted}.",
        f"n: out-of-fold {outcome.counted} of the class. Intervals: 95 % Wilson; unless images are "
        "grouped, they assume that no patient has several.",
    )
    return draw(440, 100 + 34 * len(rows), caption, fill)


MAX_NAME = 26
MAX_OPAQUE = 10  # folds whose dots are drawn opaque


def fold_scores(comparison: Comparison, data_set: DataSetComparison) -> Drawing:
    """A row per config: dots for folds, a diamond for their mean, a bar for the pooled interval."""
    metric = comparison.metric
    name = METRICS[metric].heading
    rows = data_set.rows
    spreads = [row.spread(comparison) for row in rows]
    baseline = data_set.baselines[0].scores.get(metric)
    majority = None if baseline is None else baseline.mean

    def fill(canvas: Figure) -> None:
        axes = canvas.subplots()
        for place, (row, spread) in enumerate(zip(rows, spreads, strict=True)):
            found = None if row.headline is None else row.headline.scores.get(metric)
            if found is not None and found.interval is not None:
                axes.plot(
                    [found.interval.low, found.interval.high],
                    [place, place],
                    color=BAR.light,
                    linewidth=9,
                    solid_capstyle="butt",
                    zorder=1,
                    label="95 % CI of the headline",
                )
            values = [value for value in row.fold_scores if value is not None]
            axes.plot(
                values,
                [place] * len(values),
                "o",
                color=FIRST.light,
                markersize=5,
                alpha=1.0 if len(values) <= MAX_OPAQUE else 0.45,
                label="Folds",
            )
            if spread.mean is not None:
                axes.plot([spread.mean], [place], "D", color=INK.light, markersize=6, label="Mean")
        low, high = axes.get_xlim()
        if majority is not None and low - (high - low) < majority:  # close enough to be shown
            axes.axvline(majority, label="Majority class", **CHANCE)
        names = [shown(row.name) for row in rows]
        axes.set_yticks(
            range(len(rows)),
            [n if len(n) <= MAX_NAME else f"…{n[-MAX_NAME + 1 :]}" for n in names],
        )
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=title(metric))
        axes.grid(visible=False, axis="y")
        legend_below(canvas, axes)

    words = "; ".join(
        f"{shown(row.name)} {shown_spread(spread, metric)}"
        for row, spread in zip(rows[:10], spreads, strict=False)
    )
    caption = Caption(
        "fold_scores",
        f"{name} of every fold",
        f"{name} of {len(rows)} configurations, the best first: {words}.",
        "Folds share most of their training images, so the dots vary less than independent "
        "repetitions would."
        + (
            f" {rows[0].n_repeats} repeats of {rows[0].n_folds // rows[0].n_repeats} folds."
            if len({(row.n_folds, row.n_repeats) for row in rows}) == 1 < rows[0].n_repeats
            else ""
        ),
    )
    return draw(500, 96 + 30 * len(rows), caption, fill)
