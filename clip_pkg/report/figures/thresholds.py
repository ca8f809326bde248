"""ROC, precision–recall and reliability curves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clip_pkg.report.curves import (
    Curve,
    Reliability,
    class_curves,
    macro_band,
    precision_at,
    roc_at,
)
from clip_pkg.report.drawing import BAR, FIRST, MUTED, Caption, Drawing, draw, legend_below
from clip_pkg.report.figures.learning import plot_band
from clip_pkg.report.results import ConfigOutcome

SIZE = 380
CHANCE: Any = {"linestyle": (0, (2, 3)), "color": MUTED.light, "linewidth": 1.3}


def roc(outcome: ConfigOutcome) -> Drawing:
    area = _average(outcome, "val_auroc", "area under the curve", digits=3, unit="")

    def finish(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], label="Chance", **CHANCE)
        axes.set(xlabel="False positive rate", ylabel="True positive rate")

    return _curves(outcome, roc_at, finish, slug="roc", title="ROC curve", area=area)


def precision_recall(outcome: ConfigOutcome) -> Drawing:
    area = _average(outcome, "val_mAP", "mean average precision", digits=1, unit=" %")
    counts = np.bincount(outcome.out_of_fold.targets)
    chance = float((counts[counts > 0] / counts.sum()).mean())

    def finish(axes: Axes) -> None:
        axes.axhline(chance, label="Chance", **CHANCE)
        axes.set(xlabel="Recall", ylabel="Precision")

    slug, title = "precision_recall", "Precision–recall curve"
    return _curves(outcome, precision_at, finish, slug=slug, title=title, area=area)


def _average(outcome: ConfigOutcome, score: str, name: str, *, digits: int, unit: str) -> str:
    averages = outcome.summary["average_results"]
    mean, deviation = averages.get(f"avg_{score}"), averages.get(f"std_{score}")
    if mean is None:
        return ""
    spread = "" if deviation is None else f" ± {deviation:.{digits}f}"
    return f"{name} {mean:.{digits}f}{spread}{unit}"


def _curves(
    outcome: ConfigOutcome,
    curve: Curve,
    finish: Callable[[Axes], None],
    *,
    slug: str,
    title: str,
    area: str,
) -> Drawing:
    folds = outcome.predictions
    band = macro_band(folds, curve)
    by_class = class_curves(outcome.out_of_fold, curve, band.x)

    def fill(canvas: Figure) -> None:
        axes = canvas.subplots()
        for row, values in enumerate(by_class):
            axes.plot(
                band.x,
                values,
                color=MUTED.light,
                alpha=max(0.12, min(0.35, 4 / len(by_class))),
                linewidth=0.9,
                zorder=1,
                label="Each class, pooled" if row == 0 else None,
            )
        finish(axes)
        plot_band(axes, band, FIRST, "Mean over classes")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        axes.set_aspect("equal")
        legend_below(canvas, axes)

    count = len(folds)
    about = f"mean ± sample SD over {count} folds" if count > 1 else "one fold"
    caption = Caption(
        slug,
        title,
        f"{title}, mean over classes each against the rest, {about}; {area or 'area undefined'}.",
        f"Blue: mean over classes, {about}"
        + (f"; {area}." if area else ".")
        + " Grey: each class, predictions of all folds pooled.",
    )
    return draw(SIZE, SIZE + 24, caption, fill)


def reliability(outcome: ConfigOutcome) -> Drawing:
    """Accuracy against confidence, with a histogram of the confidence."""
    found = Reliability.of(outcome.out_of_fold, outcome.n_repeats)
    scores = outcome.summary["out_of_fold"]

    def fill(canvas: Figure) -> None:
        diagram, histogram = canvas.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]}
        )
        diagram.plot([0, 1], [0, 1], **CHANCE)
        diagram.errorbar(
            found.confidence,
            found.accuracy,
            yerr=np.clip([found.accuracy - found.low, found.high - found.accuracy], 0, None),
            fmt="o-",
            color=FIRST.light,
            linewidth=1.4,
            elinewidth=1,
            markersize=4,
        )
        diagram.set(ylim=(-0.02, 1.02), xlim=(0, 1), ylabel="Accuracy")
        width = found.edges[1]
        histogram.bar(
            found.edges[found.bins] + width / 2, found.counts, width=0.9 * width, color=BAR.light
        )
        histogram.set(xlabel="Confidence", ylabel=outcome.counted.capitalize())
        histogram.locator_params(axis="y", nbins=3)

    gap = outcome.confidence_gap
    tendency = "under-confident" if gap > 0 else "over-confident"
    caption = Caption(
        "reliability",
        "Reliability",
        f"Accuracy of the out-of-fold predictions by confidence, in {len(found.bins)} non-empty "
        f"bins. Expected calibration error {scores['ece']:.3f}; on average {tendency} by "
        f"{abs(gap):.3f}.",
        f"ECE {scores['ece']:.3f} over {len(found.edges) - 1} equally wide bins; on average "
        f"{tendency} by {100 * abs(gap):.1f} percentage points. Points on the dotted line are "
        "calibrated. Bars: 95 % Wilson intervals, which assume independent images.",
    )
    return draw(380, 404, caption, fill)
