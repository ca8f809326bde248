"""Convergence of pre-trainings with different losses, and of the trainings that start from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from clip_pkg.results.pretraining_rows import read_history

WIDTH, HEIGHT = 340, 330  # px of one panel
# history column, title of the panel, stage that writes the history
PANELS = (
    ("knn_acc", "Nearest neighbours, %", "pre-training"),
    ("probe_acc", "Linear probe, %", "pre-training"),
    ("val_acc", "Validation accuracy, %", "fine-tuning"),
)
DASHES = ("-", "--", ":")


def convergence(rows: Sequence[PretrainingRow]) -> Drawing | None:
    """Draw accuracies over epochs, a line per loss, a panel per kind; None without a history."""
    panels = _panels(rows)
    if not panels:
        return None
    return draw(WIDTH * len(panels), HEIGHT, _caption(panels), _fill(rows, panels))


def write_convergence(path: Path, rows: Sequence[PretrainingRow]) -> None:
    """Write the figure as SVG, PDF or PNG, by the suffix.

    Raises UserError if there is nothing to draw, or writing fails.
    """
    panels = _panels(rows)
    if not panels:
        raise UserError(f"{shown(path)}: no history.json has an accuracy to draw")
    size, fill = (WIDTH * len(panels), HEIGHT), _fill(rows, panels)
    suffix = path.suffix.lower()
    if suffix == ".png":
        content = draw_png(*size, fill)
    else:
        drawing = draw(*size, _caption(panels), fill)
        content = drawing.pdf if suffix == ".pdf" else drawing.svg
    try:
        write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {error.strerror or error}") from None


def _panels(rows: Sequence[PretrainingRow]) -> list[tuple[str, str, Mapping[str, Band]]]:
    """Panels with at least one line: titles of x and y axis, lines by label."""
    found: list[tuple[str, str, Mapping[str, Band]]] = []
    for column, axis, stage in PANELS:
        lines = {}
        for row in rows:
            folders = row.folds if stage == "fine-tuning" else tuple(dict.fromkeys(row.runs))
            histories = [read_history(FoldPaths(Path(folder))) for folder in folders]
            band = over_epochs(histories, column)
            if band is not None:
                lines[row.label] = _measured(band)
        if lines:
            found.append((f"Epoch of {stage}", axis, lines))
    return found


def _measured(band: Band) -> Band:
    """Only the epochs with a value; probes are not computed in every epoch."""
    there = ~np.isnan(band.mean)
    return Band(band.x[there], band.folds[:, there], band.mean[there], band.deviation[there])


def _fill(
    rows: Sequence[PretrainingRow], panels: Sequence[tuple[str, str, Mapping[str, Band]]]
) -> Callable[[Figure], None]:
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

    return fill


def _caption(panels: Sequence[tuple[str, str, Mapping[str, Band]]]) -> Caption:
    ends = "; ".join(
        f"{y_title.removesuffix(', %').lower()}: "
        + ", ".join(f"{label} {band.mean[-1]:.1f} %" for label, band in lines.items())
        for _, y_title, lines in panels
    )
    return Caption(
        "pretraining_convergence",
        "Convergence of the pre-training losses",
        f"Accuracy over epochs, a line per loss. At the last epoch: {ends}.",
        "Lines: means over seeds (and folds), bands ± sample SD. Nearest neighbours and linear "
        "probe evaluate the encoder during pre-training; validation accuracy is that of the "
        "trainings that start from it.",
        scrolls=True,
    )
