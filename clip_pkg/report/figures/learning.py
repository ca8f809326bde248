"""Learning curves: mean ± SD over folds of history columns."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from clip_pkg.report.curves import Band, over_epochs
from clip_pkg.report.drawing import FIRST, MUTED, SECOND, Caption, Drawing, Role, draw, legend_below
from clip_pkg.report.results import ConfigOutcome

LINES = (("train", "Training", SECOND, "--"), ("val", "Validation", FIRST, "-"))


def learning_curves(outcome: ConfigOutcome) -> tuple[Drawing, Drawing]:
    """Loss and accuracy over epochs."""
    return (
        _curves(outcome, "loss", "Loss", "loss", digits=3),
        _curves(outcome, "acc", "Accuracy, %", "accuracy", digits=1),
    )


def _curves(outcome: ConfigOutcome, score: str, axis: str, name: str, digits: int) -> Drawing:
    histories = outcome.histories
    bands = [
        (over_epochs(histories, f"{split}_{score}"), label, role, dashes)
        for split, label, role, dashes in LINES
    ]

    def fill(canvas: Figure) -> None:
        axes = canvas.subplots()
        for band, label, role, dashes in bands:
            if band is not None:
                plot_band(axes, band, role, label, dashes)
        best = outcome.best_epochs
        axes.plot(
            best,
            [0.03] * len(best),
            linestyle="none",
            marker="^",
            markersize=7,
            color=MUTED.light,
            transform=axes.get_xaxis_transform(),
            label="Reported epochs",
            zorder=5,
        )
        axes.set(xlabel="Epoch", ylabel=axis)
        epochs = max(len(band.x) for band, *_ in bands if band is not None)
        axes.xaxis.set_major_locator(
            MaxNLocator(integer=True, nbins=6) if epochs > 1 else FixedLocator([1])
        )
        if score == "acc":
            axes.set_ylim(top=min(103.0, axes.get_ylim()[1]))
        legend_below(canvas, axes)

    folds = len(outcome.done)
    about = f"mean ± sample SD over {folds} folds" if folds > 1 else "one fold"
    last = [
        f"{label.lower()} {name} {band.mean[-1]:.{digits}f}"
        for band, label, _, _ in bands
        if band is not None
    ]
    caption = Caption(
        f"{name}_curves",
        f"{name.capitalize()} over epochs",
        f"{name.capitalize()} over {max(len(h['val_loss']) for h in histories)} epochs, {about}. "
        f"At the last epoch: {', '.join(last)}.",
        f"Lines: {about}. Triangles: reported epochs. Training scores are computed during the "
        "epoch and on augmented images, so they may be lower than validation scores.",
    )
    return draw(420, 300, caption, fill)


def plot_band(axes: Axes, band: Band, role: Role, label: str, dashes: str = "-") -> None:
    """Draw a mean with a band of its SD; a single point as a dot."""
    marker = "o" if len(band.x) == 1 else None
    axes.plot(band.x, band.mean, dashes, color=role.light, label=label, marker=marker)
    if len(band.folds) > 1:
        low, high = band.mean - band.deviation, band.mean + band.deviation
        axes.fill_between(band.x, low, high, color=role.light, alpha=0.18, linewidth=0)
