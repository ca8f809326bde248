"""Reliability diagram: whether the probabilities can be taken at their word."""

from __future__ import annotations

from matplotlib.figure import Figure

from clip_pkg.report.colours import BAR, FIRST, MUTED
from clip_pkg.report.curves import Reliability
from clip_pkg.report.drawing import Caption, Drawing, draw
from clip_pkg.report.figures.thresholds import DASHES
from clip_pkg.report.results import ConfigOutcome


def reliability(outcome: ConfigOutcome) -> Drawing:
    """Accuracy against confidence, and how many answers there are of each confidence."""
    found = Reliability.of(outcome.pooled)
    scores = outcome.summary["out_of_fold"]

    def fill(canvas: Figure) -> None:
        diagram, histogram = canvas.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]}
        )
        diagram.plot([0, 1], [0, 1], linestyle=DASHES, color=MUTED.light, linewidth=1.3)
        errors = [found.accuracy - found.low, found.high - found.accuracy]
        diagram.errorbar(
            found.confidence,
            found.accuracy,
            yerr=[errors[0].clip(0), errors[1].clip(0)],
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
        histogram.set(xlabel="Confidence", ylabel="Images")
        histogram.locator_params(axis="y", nbins=3)

    gap = outcome.confidence_gap
    tendency = "under-confident" if gap > 0 else "over-confident"
    caption = Caption(
        "reliability",
        "Reliability",
        f"Accuracy of the out-of-fold answers by confidence, in {len(found.bins)} bins that have "
        f"answers. Expected calibration error {scores['ece']:.3f}; on average {tendency} by "
        f"{abs(gap):.3f}.",
        f"ECE {scores['ece']:.3f} over {len(found.edges) - 1} equally wide bins; on average "
        f"{tendency} by {100 * abs(gap):.1f} percentage points. Points on the dotted line are "
        "calibrated. Bars: 95 % Wilson intervals, which take answers as independent.",
    )
    return draw(380, 404, caption, fill)
