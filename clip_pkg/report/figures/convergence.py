"""Convergence of pre-trainings with different losses, and of the trainings that start from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.files import write_bytes
from clip_pkg.base.paths import FoldPaths
from clip_pkg.report.curves import Band, over_epochs
from clip_pkg.report.drawing import CLASS_ROLES, Caption, Drawing, draw, draw_png, legend_below
from clip_pkg.report.figures.learning import plot_band
from clip_pkg.results.comparison_records import PretrainingRow
from clip_pkg.results.pretraining_rows import history_if_readable

WIDTH, HEIGHT = 340, 330  # px of one panel
# history column, title of the panel, stage that writes the history
PANELS = (
    ("knn_acc", "Nearest neighbours, %", "pre-training"),
    ("probe_acc", "Linear probe, %", "pre-training"),
    ("val_acc", "Validation accuracy, %", "fine-tuning"),
)
DASHES = ("-", "--", ":")


@dataclass(frozen=True)
class _Plan:
    """A figure that can be drawn: its size in pixels, its texts, and what fills it."""

    size: tuple[int, int]
    caption: Caption
    fill: Callable[[Figure], None]


def convergence(rows: Sequence[PretrainingRow]) -> Drawing | None:
    """Draw accuracies over epochs, a line per loss, a panel per kind; None without a history."""
    plan = _plan(rows)
    return None if plan is None else draw(*plan.size, plan.caption, plan.fill)


def write_convergence(path: Path, rows: Sequence[PretrainingRow]) -> None:
    """Write the figure as SVG, PDF or PNG, by the suffix.

    Raises UserError if there is nothing to draw, or writing fails.
    """
    plan = _plan(rows)
    if plan is None:
        raise UserError(f"{shown(path)}: no history.json has an accuracy to draw")
    suffix = path.suffix.lower()
    if suffix == ".png":
        content = draw_png(*plan.size, plan.fill)
    else:
        drawing = draw(*plan.size, plan.caption, plan.fill)
        content = drawing.pdf if suffix == ".pdf" else drawing.svg
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {error.strerror or error}") from None


def _plan(rows: Sequence[PretrainingRow]) -> _Plan | None:
    panels: list[tuple[str, str, dict[str, Band]]] = []  # titles of x and y axis, lines by label
    for column, axis, stage in PANELS:
        lines = {}
        for row in rows:
            folders = row.folds if stage == "fine-tuning" else tuple(dict.fromkeys(row.runs))
            histories = [history_if_readable(FoldPaths(Path(folder))) for folder in folders]
            band = over_epochs(histories, column)
            if band is not None:  # probes are not computed in every epoch
                there = ~np.isnan(band.mean)
                lines[row.label] = Band(
                    band.x[there], band.folds[:, there], band.mean[there], band.deviation[there]
                )
        if lines:
            panels.append((f"Epoch of {stage}", axis, lines))
    if not panels:
        return None

    def fill(canvas: Figure) -> None:
        grid = np.atleast_1d(canvas.subplots(1, len(panels)))
        for axes, (x_title, y_title, lines) in zip(grid, panels, strict=True):
            for number, row in enumerate(rows):
                role = CLASS_ROLES[number % len(CLASS_ROLES)]
                dashes = DASHES[number // len(CLASS_ROLES) % len(DASHES)]
                if row.label in lines:
                    plot_band(axes, lines[row.label], role, row.label, dashes)
            axes.set(xlabel=x_title, ylabel=y_title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        # the last panel includes the baseline
        legend_below(canvas, grid[-1])

    ends = "; ".join(
        f"{y_title.removesuffix(', %').lower()}: "
        + ", ".join(f"{label} {band.mean[-1]:.1f} %" for label, band in lines.items())
        for _, y_title, lines in panels
    )
    caption = Caption(
        "pretraining_convergence",
        "Convergence of the pre-training losses",
        f"Accuracy over epochs, a line per loss. At the last epoch: {ends}.",
        "Lines: means over seeds (and folds), bands ± sample SD. Nearest neighbours and linear "
        "probe evaluate the encoder during pre-training; validation accuracy is that of the "
        "trainings that start from it.",
        scrolls=True,
    )
    return _Plan((WIDTH * len(panels), HEIGHT), caption, fill)
