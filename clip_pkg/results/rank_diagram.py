"""Critical-difference diagram: mean ranks on an axis, a bar over ranks that do not differ."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from clip_pkg.base.files import write_with
from clip_pkg.results.comparison_records import AcrossDataSets

INK = "#222222"
WIDTH = 8.0  # inches
NAME_STEP, BAR_STEP = 0.32, 0.16  # inches between names, between bars
MARGIN = 0.45  # of the ranks' range, left and right, for names


def write_rank_diagram(path: Path, across: AcrossDataSets) -> None:
    """Draw the diagram as SVG or PDF, by the suffix; equal numbers give equal files."""
    # text stays selectable in SVG; ids do not depend on the time
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "rank diagram"}):
        figure = rank_diagram(across)
        kind = path.suffix.lower().removeprefix(".")
        date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        write_with(  # a tight box, since long names widen the page
            path,
            lambda stream: figure.savefig(stream, format=kind, metadata=date, bbox_inches="tight"),
        )


def rank_diagram(across: AcrossDataSets) -> Figure:
    """Draw the configs' mean ranks, 1 on the left, with the critical difference above the axis."""
    critical = across.critical_difference
    assert critical is not None
    count = len(across.configs)
    half = (count + 1) // 2
    bars = len(across.cliques) * BAR_STEP
    below = bars + half * NAME_STEP + 0.3
    span = max(count - 1, 1)
    figure = Figure(figsize=(WIDTH, below + 0.9))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(1 - MARGIN * span, count + MARGIN * span)
    axes.set_ylim(-below, 0.9)
    axes.axis("off")
    label: Any = {"fontsize": 9, "color": INK}

    axes.plot([1, count], [0, 0], color=INK, lw=1)
    for rank in range(1, count + 1):
        axes.plot([rank, rank], [0, 0.09], color=INK, lw=1)
        axes.text(rank, 0.13, str(rank), ha="center", va="bottom", **label)
    end = 1 + critical
    axes.plot([1, end], [0.55, 0.55], color=INK, lw=1.5, clip_on=False)
    for place in (1, end):
        axes.plot([place, place], [0.5, 0.6], color=INK, lw=1.5, clip_on=False)
    text = f"critical difference {critical:.2f}"
    axes.text((1 + end) / 2, 0.62, text, ha="center", va="bottom", **label)

    for number, members in enumerate(across.cliques):
        ends = [across.mean_ranks[member] for member in members]
        level = -0.14 - number * BAR_STEP
        reach = 0.012 * span
        axes.plot([min(ends) - reach, max(ends) + reach], [level, level], color=INK, lw=3.5)

    # names with a line to their rank: the better half on the left, from top to bottom
    ranked = sorted(zip(across.mean_ranks, across.configs, strict=True), key=itemgetter(0))
    for position, (mean_rank, name) in enumerate(ranked):
        is_left = position < half
        step = position if is_left else count - 1 - position
        level = -bars - 0.35 - step * NAME_STEP
        edge = 1 - 0.04 * span if is_left else count + 0.04 * span
        axes.plot([mean_rank, mean_rank, edge], [0, level, level], color=INK, lw=0.8)
        axes.text(
            edge + (-0.01 if is_left else 0.01) * span,
            level,
            f"{name}  {mean_rank:.2f}",
            ha="right" if is_left else "left",
            va="center",
            parse_math=False,  # names may have dollar signs
            **label,
        )
    return figure
