"""Confusion matrices of the out-of-fold predictions: counts, and percent of each true class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from clip_pkg.report.drawing import HEAT, INK, RULE, Caption, Drawing, draw
from clip_pkg.report.results import ConfigOutcome

MAX_LABEL = 22  # characters of a class name on an axis
MAX_WITH_NUMBERS = 25  # classes; cells of more are too small for text


def confusion_matrices(outcome: ConfigOutcome) -> tuple[Drawing, Drawing]:
    """The matrix as counts, and as percent of each true class."""
    counts = outcome.confusion
    counted = outcome.counted
    words = f"{counts.trace()} of {counts.sum()} {counted} are on the diagonal."
    if outcome.commonest_mistake is not None:
        true, predicted = outcome.commonest_mistake
        words += (
            f" The most frequent mistake: {counts[true, predicted]} of {counts[true].sum()} "
            f"{counted} of {outcome.classes[true]} predicted as {outcome.classes[predicted]}."
        )
    note = "Out-of-fold predictions: each image by the model that was not trained on it."
    if outcome.n_repeats > 1:
        note = (
            f"Out-of-fold predictions of {outcome.n_repeats} repeats: in each, an image is "
            "predicted by the model that was not trained on it."
        )

    def matrix(slug: str, title: str, *, in_percent: bool) -> Drawing:
        caption = Caption(slug, title, words, note, scrolls=len(outcome.classes) > 12)
        return confusion_matrix(outcome.classes, counts, caption, in_percent=in_percent)

    return (
        matrix("confusion_counts", "Confusion matrix, counts", in_percent=False),
        matrix("confusion_shares", "Confusion matrix, % of true class", in_percent=True),
    )


def confusion_matrix(
    classes: Sequence[str], counts: NDArray[np.int64], caption: Caption, *, in_percent: bool = False
) -> Drawing:
    """A matrix [C, C] of counts by true and predicted class, or of percent of each true class."""
    support = counts.sum(axis=1, keepdims=True)
    shares = np.zeros(counts.shape)
    np.divide(counts, support, out=shares, where=support > 0)
    if in_percent:
        texts = [[f"{100 * one:.0f}" if one > 0 else "" for one in row] for row in shares]
    else:
        texts = [[f"{count}" if count else "" for count in row] for row in counts.tolist()]
    return _matrix(classes, shares, texts, caption)


def shortened_label(name: str) -> str:
    """A class name short enough for an axis."""
    return name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…"


def heat_cells(axes: Axes, shades: NDArray[np.float64]) -> None:
    """Fill the cells of a table by shades [R, C] in 0…1; row 0 on top."""
    filled = np.argwhere(shades > 0)
    cells = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column in filled]
    axes.add_collection(
        PatchCollection(cells, facecolor=HEAT.light, alpha=shades[shades > 0], linewidth=0)
    )
    axes.set(xlim=(-0.5, shades.shape[1] - 0.5), ylim=(shades.shape[0] - 0.5, -0.5))


def _matrix(
    classes: Sequence[str],
    shades: NDArray[np.float64],
    texts: Sequence[Sequence[str]],
    caption: Caption,
) -> Drawing:
    count = len(classes)
    has_numbers = count <= MAX_WITH_NUMBERS
    cell = 34 if count <= 12 else 27 if has_numbers else 15
    labels = [shortened_label(name) for name in classes]
    margin = 40 + 7 * max(map(len, labels))
    size_px = max(240, cell * count) + margin
    size = 11.0 if count <= 12 else 10.0 if has_numbers else 8.0

    def fill(canvas: Figure) -> None:
        axes = canvas.subplots()
        heat_cells(axes, shades)
        axes.set_aspect("equal")
        axes.set_xticks(range(count), labels, rotation=90 if count > 3 else 0, fontsize=size)
        axes.set_yticks(range(count), labels, fontsize=size)
        axes.set(xlabel="Predicted class", ylabel="True class")
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(RULE.light)
        for (row, column), word in np.ndenumerate(np.array(texts)):
            if has_numbers and word:
                axes.text(
                    column,
                    row,
                    word,
                    ha="center",
                    va="center",
                    fontsize=size,
                    color=INK.light,
                    fontweight="bold" if row == column else "normal",
                )

    return draw(size_px, size_px, caption, fill)
