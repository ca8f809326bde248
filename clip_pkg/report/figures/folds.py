"""Classes in the folds, and in what the sampler showed."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from clip_pkg.report.drawing import (
    FIRST,
    INK,
    MUTED,
    RULE,
    SECOND,
    Caption,
    Drawing,
    draw,
    legend_below,
)
from clip_pkg.report.figures.confusion import heat_cells, shortened_label
from clip_pkg.report.results import ConfigOutcome
from clip_pkg.results.folders import ShownImages

MAX_WITH_NUMBERS = 20  # folds; cells of more are too small for text


def class_distribution(outcome: ConfigOutcome) -> Drawing:
    """Validation images of each class in each fold."""
    folds = outcome.folds_info["folds"]
    names = list(folds[0]["val_per_class"])
    counts = np.array([[fold["val_per_class"][name] for fold in folds] for name in names])
    shares = counts / counts.sum(axis=0)
    totals = list(outcome.class_counts.values())
    has_numbers = len(folds) <= MAX_WITH_NUMBERS
    per_repeat = len(folds) // outcome.n_repeats
    repeated = f", {outcome.n_repeats} repeats of {per_repeat}" if outcome.n_repeats > 1 else ""

    def fill(canvas: Figure) -> None:
        axes = canvas.subplots()
        heat_cells(axes, shares / shares.max())
        if has_numbers:
            for (row, column), count in np.ndenumerate(counts):
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=11)
        for row, total in enumerate(totals):
            axes.text(len(folds) - 0.3, row, f"{total}", va="center", color=INK.light, fontsize=11)
        axes.text(len(folds) - 0.3, -0.85, "all", va="center", color=MUTED.light, fontsize=11)
        axes.set_xlim(-0.5, len(folds) + 0.4)
        if len(folds) == 1:
            axes.set_xticks([0], ["hold-out"])
        elif has_numbers:
            axes.set_xticks(range(len(folds)), [f"{one + 1}" for one in range(len(folds))])
        for repeat in range(1, outcome.n_repeats):
            axes.axvline(repeat * per_repeat - 0.5, color=MUTED.light, linewidth=1)
        if outcome.n_repeats > 1 and not has_numbers:
            starts = range(0, len(folds), per_repeat)
            axes.set_xticks(starts, [f"{start + 1}" for start in starts], fontsize=8)
        axes.set_yticks(range(len(names)), [shortened_label(name) for name in outcome.classes])
        axes.set_xlabel("Fold")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    caption = Caption(
        "class_distribution",
        "Validation images per class and fold",
        f"{len(names)} classes over {len(folds)} folds{repeated}. Images per class: "
        f"{min(totals)} to {max(totals)}, a ratio of {max(totals) / min(totals):.1f}.",
        "Shade: share of the class in the fold."
        + (" Lines: between repeats, each of which divides all images." if repeated else ""),
        scrolls=len(folds) > 10,
    )
    cells = 42 if has_numbers else 14
    return draw(max(380, 200 + cells * len(folds)), 80 + 24 * len(names), caption, fill)


def sampler_exposure(outcome: ConfigOutcome) -> Drawing | None:
    """Share of each class among the training images, and among the images shown in training.

    None if the folds' files were deleted.
    """
    parts = [fold.exposure for fold in outcome.done if fold.exposure is not None]
    if not parts:
        return None
    names = outcome.out_of_fold.classes
    images, views = (_per_class(parts, names, seen) for seen in (False, True))
    there, shown = images / images.sum(), views / views.sum()
    rows = np.arange(len(names))

    def fill(canvas: Figure) -> None:
        axes = canvas.subplots()
        axes.hlines(rows, 100 * there, 100 * shown, color=RULE.light, linewidth=3, zorder=1)
        for values, role, marker, label in (
            (there, SECOND, "D", "Training images"),
            (shown, FIRST, "o", "Images shown"),
        ):
            axes.plot(100 * values, rows, marker, color=role.light, markersize=6, label=label)
        axes.set_yticks(rows, [shortened_label(name) for name in outcome.classes])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="Share, %")
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
        legend_below(canvas, axes)

    counts = np.concatenate([part.times_seen for part in parts])
    never = int((counts == 0).sum())
    how = (
        f"drawn with replacement, weighted by class ({outcome.settings.weight_method})"
        if outcome.settings.use_weighted_sampling
        else "each image once per epoch, in random order"
    )
    rarest = int(there.argmin())
    caption = Caption(
        "sampler_exposure",
        "Images shown by the sampler",
        f"Share of each class among the training images and among the images shown. "
        f"{outcome.classes[rarest]}, the rarest class, makes up {100 * there[rarest]:.1f} % of the "
        f"images and {100 * shown[rarest]:.1f} % of those shown.",
        f"Training images are {how}. Within a fold, an image was shown {int(counts.min())} to "
        f"{int(counts.max())} times (median {np.median(counts):g})"
        + (f"; {never} of {len(counts)} were never shown." if never else "."),
    )
    return draw(460, 110 + 24 * len(rows), caption, fill)


def _per_class(parts: list[ShownImages], names: tuple[str, ...], seen: bool) -> NDArray[np.float64]:
    """[C] training images, or views of them, summed over folds."""
    place = {name: index for index, name in enumerate(names)}
    totals = np.zeros(len(names))
    for part in parts:
        labels = [place[label] for label in part.labels]
        weights = part.times_seen if seen else np.ones(len(labels))
        totals += np.bincount(labels, weights=weights, minlength=len(names))
    return totals
