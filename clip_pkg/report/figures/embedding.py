"""Maps of out-of-fold image features, a panel per fold, since their feature spaces differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clip_pkg.report.drawing import CLASS_ROLES, PAPER, WRONG, Caption, Drawing, draw
from clip_pkg.report.figures.confusion import shortened_label
from clip_pkg.report.pictures import SEED, FeatureMap
from clip_pkg.report.results import ConfigOutcome

MARKERS = "osD^vPX"
MAX_IN_LEGEND = 20  # classes; of more, only numbers in the map
PANEL = 250
MAX_IN_ROW = 3


def embedding_map(outcome: ConfigOutcome, maps: Sequence[FeatureMap]) -> Drawing:
    """Scatter of two coordinates per image; marker and colour show the true class."""
    columns = min(len(maps), MAX_IN_ROW)
    rows = math.ceil(len(maps) / columns)
    has_legend = len(outcome.classes) <= MAX_IN_LEGEND

    def fill(canvas: Figure) -> None:
        panels = canvas.subplots(rows, columns, squeeze=False).ravel()
        for axes, one in zip(panels, maps, strict=False):
            _panel(axes, one, len(outcome.classes), has_names=not has_legend)
        for axes in panels[len(maps) :]:
            axes.set_axis_off()
        if has_legend:
            markers = [
                *(
                    panels[0].plot([], [], linestyle="none", **_style(label))[0]
                    for label in range(len(outcome.classes))
                ),
                panels[0].plot([], [], "o", markerfacecolor="none", color=WRONG.light)[0],
            ]
            labels = [*map(shortened_label, outcome.classes), "misclassified"]
            # matplotlib omits labels that begin with an underscore
            labels = [f"\u2060{name}" if name.startswith("_") else name for name in labels]
            canvas.legend(
                markers,
                labels,
                loc="outside lower center",
                ncols=5,
                handletextpad=0.1,
                columnspacing=1,
            )

    legend_lines = math.ceil((len(outcome.classes) + 1) / 5) if has_legend else 0
    width = max(380, PANEL * columns)
    methods = " and ".join(sorted({one.method for one in maps}))
    wrong, total = sum(int(one.wrong.sum()) for one in maps), sum(len(one.points) for one in maps)
    numbers = " Numbers: classes in the order of the table of scores per class."
    sampled = " A random sample of each fold is shown."
    caption = Caption(
        "embedding",
        "Map of the image features",
        f"Two-dimensional map ({methods}) of the features of {total} out-of-fold images in "
        f"{len(maps)} folds, {len(outcome.classes)} classes; {wrong} misclassified images "
        "are ringed.",
        f"{methods} of the normalised image embeddings, seed {SEED}; a panel per fold, because "
        "the feature spaces of the folds' models differ. Distances between separate groups are not "
        "meaningful in t-SNE."
        + ("" if has_legend else numbers)
        + (sampled if any(one.left_out for one in maps) else ""),
        scrolls=len(maps) > 1,
    )
    return draw(width, PANEL * rows + 24 + 20 * legend_lines, caption, fill)


def _panel(axes: Axes, one: FeatureMap, n_classes: int, *, has_names: bool) -> None:
    for label in range(n_classes):
        mine = one.targets == label
        axes.plot(
            *one.points[mine].T,
            linestyle="none",
            markersize=4.6,
            markeredgewidth=0.4,
            markeredgecolor=PAPER.light,
            **_style(label),
        )
        if has_names and mine.any():
            centre = np.median(one.points[mine], axis=0)
            axes.annotate(f"{label + 1}", centre, ha="center", va="center", fontsize=8)
    axes.plot(
        *one.points[one.wrong].T,
        linestyle="none",
        marker="o",
        markersize=8.5,
        markerfacecolor="none",
        markeredgecolor=WRONG.light,
        markeredgewidth=1.1,
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.grid(visible=False)
    axes.set_title(f"Fold {one.fold}, {one.method}", loc="left")


def _style(label: int) -> dict[str, Any]:
    """Colour and marker of a class; the combinations repeat after 56 classes."""
    return {
        "color": CLASS_ROLES[label % len(CLASS_ROLES)].light,
        "marker": MARKERS[label % len(MARKERS)],
    }
