"""Critical-difference diagram: mean ranks on an axis, a bar over ranks that do not differ."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
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
    assert across.critical_difference is not None
    count = len(across.configs)
    half = (count + 1) // 2
    bars = len(across.cliques) * BAR_STEP
    below = bars + half * NAME_STEP + 0.3
    height = below + 0.9
    figure = Figure(figsize=(WIDTH, height))
    span = max(count - 1, 1)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(1 - MARGIN * span, count + MARGIN * span)
    axes.set_ylim(-below, 0.9)
    axes.axis("off")
    _axis(axes, count, across.critical_difference)
    for number, members in enumerate(across.cliques):
        ends = [across.mean_ranks[member] for member in members]
        level = -0.14 - number * BAR_STEP
        reach = 0.012 * span
        axes.plot([min(ends) - reach, max(ends) + reach], [level, level], color=INK, lw=3.5)
    _names(axes, across, bars)
    return figure


def _axis(axes: Axes, count: int, critical_difference: float) -> None:
    axes.plot([1, count], [0, 0], color=INK, lw=1)
    for rank in range(1, count + 1):
        axes.plot([rank, rank], [0, 0.09], color=INK, lw=1)
        axes.text(rank, 0.13, str(rank), ha="center", va="bottom", fontsize=9, color=INK)
    end = 1 + critical_difference
    axes.plot([1, end], [0.55, 0.55], color=INK, lw=1.5, clip_on=False)
    for place in (1, end):
        axes.plot([place, place], [0.5, 0.6], color=INK, lw=1.5, clip_on=False)
    text = f"critical difference {critical_difference:.2f}"
    axes.text((1 + end) / 2, 0.62, text, ha="center", va="bottom", fontsize=9, color=INK)


def _names(axes: Axes, across: AcrossDataSets, bars: float) -> None:
    """Names with a line to their rank: the better half on the left, from top to bottom."""
    order = sorted(range(len(across.configs)), key=lambda index: across.mean_ranks[index])
    half = (len(order) + 1) // 2
    span = max(len(order) - 1, 1)
    left, right = 1 - 0.04 * span, len(order) + 0.04 * span
    for place, index in enumerate(order):
        rank, is_left = across.mean_ranks[index], place < half
        step = place if is_left else len(order) - 1 - place
        level = -bars - 0.35 - step * NAME_STEP
        edge = left if is_left else right
        axes.plot([rank, rank, edge], [0, level, level], color=INK, lw=0.8)
        axes.text(
            edge + (-0.01 if is_left else 0.01) * span,
            level,
            f"{across.configs[index]}  {rank:.2f}",
            ha="right" if is_left else "left",
            va="center",
            fontsize=9,
            color=INK,
            parse_math=False,  # names may have dollar signs
        )
