"""All configs at a glance: every fold's score, and the mean."""

from __future__ import annotations

from matplotlib.figure import Figure

from clip_pkg.evaluation.comparison_records import Comparison, DataSetComparison
from clip_pkg.metrics.units import PERCENT
from clip_pkg.planning.problems import shown
from clip_pkg.report.colours import BAR, FIRST, INK, MUTED
from clip_pkg.report.drawing import Caption, Drawing, draw, legend_below
from clip_pkg.report.figures.thresholds import DASHES
from clip_pkg.report.tables import SCORES, spread_text

LONGEST_NAME = 26


def fold_scores(comparison: Comparison, data_set: DataSetComparison) -> Drawing:
    """A row per config: dots for folds, a diamond for their mean, a bar for the pooled interval."""
    metric = comparison.metric
    unit = "%" if metric in PERCENT else ""
    title = SCORES.get(metric, metric).partition(",")[0]
    rows = data_set.rows
    spreads = [getattr(row, comparison.epoch).get(metric) for row in rows]

    def fill(canvas: Figure) -> None:
        axes = canvas.subplots()
        for place, (row, spread) in enumerate(zip(rows, spreads, strict=True)):
            pooled = row.pooled.get(metric)
            if pooled is not None and pooled.interval is not None:
                axes.plot(
                    [pooled.interval.low, pooled.interval.high],
                    [place, place],
                    color=BAR.light,
                    linewidth=9,
                    solid_capstyle="butt",
                    zorder=1,
                    label="95 % CI, pooled",
                )
            values = [value for value in row.fold_scores if value is not None]
            axes.plot(
                values, [place] * len(values), "o", color=FIRST.light, markersize=5, label="Folds"
            )
            if spread is not None and spread.mean is not None:
                axes.plot([spread.mean], [place], "D", color=INK.light, markersize=6, label="Mean")
        _mark_majority(canvas, data_set, metric)
        axes.set_yticks(range(len(rows)), [_name(row.name) for row in rows])
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"{title}, {unit}" if unit else title)
        axes.grid(visible=False, axis="y")
        legend_below(canvas, axes)

    words = "; ".join(
        f"{shown(row.name)} {spread_text(spread, metric)}"
        for row, spread in zip(rows[:10], spreads, strict=False)
    )
    caption = Caption(
        "fold_scores",
        f"{title} of every fold",
        f"{title} of {len(rows)} configurations, the best first: {words}.",
        "Folds share most of their training images, so the spread of the dots is smaller than that "
        "of independent repetitions.",
    )
    return draw(500, 96 + 30 * len(rows), caption, fill)


def _mark_majority(canvas: Figure, data_set: DataSetComparison, metric: str) -> None:
    """A line for always answering the most frequent class, if it is near enough to be seen."""
    (axes,) = canvas.axes
    baseline = next((one for one in data_set.baselines if one.name.startswith("majority")), None)
    spread = None if baseline is None else baseline.scores.get(metric)
    if spread is None or spread.mean is None:
        return
    low, high = axes.get_xlim()
    if low - (high - low) < spread.mean:
        axes.axvline(
            spread.mean, color=MUTED.light, linestyle=DASHES, linewidth=1.3, label="Majority class"
        )


def _name(name: str) -> str:
    text = shown(name)
    return text if len(text) <= LONGEST_NAME else f"…{text[-LONGEST_NAME + 1 :]}"
