"""What a planned cross-validation can find, in sentences, before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from clip_pkg.base.errors import shown
from clip_pkg.results.statistics import LEVEL, first_step, planned_difference
from clip_pkg.study.preflight import PreparedConfig

DISAGREEMENT = 0.2  # share of images that only one of two configs classifies correctly


def detectable_differences(configs: Sequence[PreparedConfig]) -> list[str]:
    """Differences in accuracy and in the smallest class's recall found with 80 % power.

    A sentence per way of splitting images, then the assumptions.
    """
    tested = [one.splits.hash for one in configs if len(one.splits.folds) > 1]
    sharing = Counter(tested)  # only configs with the same folds are compared
    pairs = max(1, sum(count * (count - 1) // 2 for count in sharing.values()))
    level = first_step(LEVEL, pairs)
    found = []
    for one in configs:
        n_splits, repeats = one.splits.n_splits, one.splits.n_repeats
        if len(one.splits.folds) == 1:
            found.append(
                "With a single split no difference between configs can be tested over folds; "
                "use_cv makes several."
            )
            continue
        images, counts = one.manifest, one.manifest.class_counts
        smallest = min(range(len(counts)), key=counts.__getitem__)
        overall, of_smallest = (
            100
            * planned_difference(
                count,
                n_splits=n_splits,
                n_repeats=repeats,
                disagreement=DISAGREEMENT,
                level=level,
            )
            for count in (len(images), int(counts[smallest]))
        )
        times = f" × {repeats} repeats" if repeats > 1 else ""
        found.append(
            f"With 80 % power, {len(images)} images in {n_splits} folds{times} show a "
            f"difference of {overall:.1f} points between the accuracies of two configs, and of "
            f"{of_smallest:.1f} points between their recalls of the smallest class, "
            f"{shown(images.classes[smallest])} ({counts[smallest]} images)."
        )
    found = list(dict.fromkeys(found))
    if not tested:
        return found
    adjusted = f"/{pairs}, the first step of Holm's adjustment for {pairs} pairs"
    has_groups = any(one.manifest.groups for one in configs)
    grouped = ", images of a group as independent" if has_groups else ""
    assumed = (
        f"This assumes {100 * DISAGREEMENT:.0f} % of the images (or the difference, if larger) "
        f"classified correctly by only one of the two{grouped}, and the corrected resampled t-test "
        f"at {1 - LEVEL:.2g}{adjusted if pairs > 1 else ''}."
    )
    return [*found, assumed]
