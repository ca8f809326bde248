"""How pre-trainings with different losses converge, and the trainings that start from them."""

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
# Column of a history, what its panel shows, and whose history it is.
PANELS = (
    ("knn_acc", "Nearest neighbours, %", "pre-training"),
    ("probe_acc", "Linear probe, %", "pre-training"),
    ("val_acc", "Validation accuracy, %", "fine-tuning"),
)
DASHES = ("-", "--", ":")


def convergence(rows: Sequence[PretrainingRow]) -> Drawing | None:
    """Draw accuracies over epochs, a line per loss, a panel per kind; None without any history."""
    panels = _panels(rows)
    if not panels:
        return None
    return draw(WIDTH * len(panels), HEIGHT, _caption(panels), _fill(rows, panels))


def write_convergence(path: Path, rows: Sequence[PretrainingRow]) -> None:
    """Write the same figure as SVG, PDF or PNG, as the suffix says.

    Raises UserError if there is nothing to draw, or it cannot be written.
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
    """Those of `PANELS` that have a line: title of the x axis, of the y axis, lines by label."""
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
    """Only the epochs with a value: probes look at the features now and then."""
    there = ~np.isnan(band.mean)
    return Band(band.x[there], band.folds[:, there], band.mean[there], band.deviation[there])


def _fill(
    rows: Sequence[PretrainingRow], panels: Sequence[tuple[str, str, Mapping[str, Band]]]
) -> Callable[[Figure], None]:
    def fill(canvas: Figure) -> None:
        grid = np.atleast_1d(canvas.subplots(1, len(panels)))
        for axes, (below, beside, lines) in zip(grid, panels, strict=True):
            for number, row in enumerate(rows):
                role = CLASS_ROLES[number % len(CLASS_ROLES)]
                dashes = DASHES[number // len(CLASS_ROLES) % len(DASHES)]
                if row.label in lines:
                    plot_band(axes, lines[row.label], role, row.label, dashes)
            axes.set(xlabel=below, ylabel=beside)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        # The last panel has the baseline as well, where there is one.
        legend_below(canvas, grid[-1])

    return fill


def _caption(panels: Sequence[tuple[str, str, Mapping[str, Band]]]) -> Caption:
    ends = "; ".join(
        f"{beside.removesuffix(', %').lower()}: "
        + ", ".join(f"{label} {band.mean[-1]:.1f} %" for label, band in lines.items())
        for _, beside, lines in panels
    )
    return Caption(
        "pretraining_convergence",
        "Convergence of the pre-training losses",
        f"Accuracy over epochs, a line per loss. At the last epoch: {ends}.",
        "Lines: means over seeds (and folds), bands ± sample SD. Nearest neighbours and linear "
        "probe look at the encoder while it learns without labels; validation is that of the "
        "trainings that start from it.",
        scrolls=True,
    )
