"""Recall and precision of each class, with intervals and support."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from clip_pkg.report.colours import BAR, FIRST, INK, MUTED, SECOND
from clip_pkg.report.curves import wilson_interval
from clip_pkg.report.drawing import Caption, Drawing, draw, legend_below
from clip_pkg.report.figures.confusion import shortened_label
from clip_pkg.report.results import ConfigOutcome


def per_class(outcome: ConfigOutcome) -> Drawing:
    """A bar per class for recall, a mark for precision; both with 95 % intervals."""
    counts = outcome.confusion
    right, support, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    rows = np.arange(len(counts))

    def fill(canvas: Figure) -> None:
        axes = canvas.subplots()
        for offset, totals, role, marker in (
            (-0.17, support, FIRST, "o"),
            (0.21, predicted, SECOND, "D"),
        ):
            known = totals > 0
            share = right[known] / totals[known]
            low, high = (edge[known] for edge in wilson_interval(right.astype(float), totals))
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
        f"recall: {outcome.classes[hardest]}, {right[hardest]} of {support[hardest]} images.",
        "n: out-of-fold images of the class. Intervals: 95 % Wilson, which take images as "
        "independent; with several images per patient they are too narrow.",
    )
    return draw(440, 100 + 34 * len(rows), caption, fill)
