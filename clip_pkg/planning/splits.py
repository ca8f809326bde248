"""Folds: who trains and who validates, the same for every config on the same images.

They follow from the manifest's content, its groups, the linked copies and the seed, and from
nothing else: not from the order of files on the disk, nor from where the folder lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clip_pkg.errors import DataError
from clip_pkg.planning.fold import (
    Fold,
    Indices,
    Splits,
    missing_classes,
    splits_hash,
    unit_numbers,
)
from clip_pkg.planning.folds_info import splits_from_json, splits_to_json
from clip_pkg.planning.manifest import Manifest
from clip_pkg.planning.problems import DataErrors, shown
from clip_pkg.planning.stratification import (
    stratified_folds,
    stratified_holdout,
    units_per_class,
)

__all__ = [
    "Fold",
    "Splits",
    "inner_split",
    "make_splits",
    "splits_from_json",
    "splits_to_json",
    "undivided",
]

NO_FOLD = 0  # number of the one part of images that are not divided


def make_splits(
    manifest: Manifest,
    *,
    use_cv: bool,
    n_splits: int,
    random_state: int,
    val_fraction: float,
    linked: Sequence[Sequence[int]] = (),
) -> Splits:
    """Divide the images, stratified by class.

    With `use_cv` every image is in exactly one of `n_splits` validation folds; without it one fold
    validates on `val_fraction` of each class. Images of one group, and those that `linked` clusters
    name, share a fold.

    Raises:
        DataErrors: A class has too few images, or its groups leave a fold without it; all such
            classes are named.
    """
    units = unit_numbers(manifest, linked)
    needed = n_splits if use_cv else 2
    _refuse_scarce_classes(manifest, units, needed, use_cv=use_cv)
    if use_cv:
        fold_of, method = stratified_folds(manifest.labels, units, n_splits, random_state)
        masks = [fold_of == number for number in range(n_splits)]
    else:
        masks = [stratified_holdout(manifest.labels, units, val_fraction, random_state)]
        method = f"stratified hold-out of {val_fraction:g}"
    folds = tuple(
        Fold(number, np.flatnonzero(~mask), np.flatnonzero(mask))
        for number, mask in enumerate(masks, start=1)
    )
    problems = missing_classes(manifest, folds)
    if problems:
        hint = f"no division into {len(folds)} folds keeps the groups whole and all classes in all "
        hint += "folds: lower n_splits, or merge classes"
        raise DataErrors(manifest.data_dir, [*problems, hint])
    return Splits(
        folds=folds,
        method=method,
        n_splits=len(folds),
        random_state=random_state,
        fingerprint=manifest.fingerprint,
        hash=splits_hash(manifest, folds),
        linked=tuple(tuple(int(index) for index in cluster) for cluster in linked),
    )


def undivided(manifest: Manifest) -> Splits:
    """One part with all images to train on and none to validate on; its number is `NO_FOLD`."""
    whole = (Fold(NO_FOLD, np.arange(len(manifest)), np.arange(0)),)
    return Splits(
        folds=whole,
        method="all images train",
        n_splits=0,
        random_state=None,
        fingerprint=manifest.fingerprint,
        hash=splits_hash(manifest, whole),
    )


def inner_split(
    manifest: Manifest,
    train: Indices,
    fraction: float,
    *,
    seed: int,
    linked: Sequence[Sequence[int]] = (),
) -> tuple[Indices, Indices]:
    """Set `fraction` of a training fold aside, to choose the epoch on; returns (rest, set aside).

    Both are sorted indices into the manifest. Stratified; groups and `linked` clusters (those of
    `Splits.linked`) stay whole. A class with a single unit stays in the rest.

    Raises:
        DataError: Nothing can be set aside.
    """
    units = unit_numbers(manifest, linked)
    held = stratified_holdout(manifest.labels[train], units[train], fraction, seed)
    if not held.any():
        raise DataError(
            f"inner_val_fraction {fraction:g} sets no image aside: every class of the training "
            "fold is a single image or group; set it to 0"
        )
    return train[~held], train[held]


def _refuse_scarce_classes(
    manifest: Manifest, units: Indices, needed: int, *, use_cv: bool
) -> None:
    available = units_per_class(manifest.labels, units)
    goal = f"{needed} folds" if use_cv else "a training and a validation part"
    problems = []
    for name, images, parts in zip(manifest.classes, manifest.class_counts, available, strict=True):
        if parts < needed:
            tied = f" in {parts} groups that must stay whole" if parts < images else ""
            problems.append(
                f"class '{shown(name)}' has {images} image(s){tied}, too few for {goal}"
            )
    if problems:
        least = int(available.min())
        lower = f"lower n_splits to at most {least}, " if use_cv and least > 1 else ""
        problems.append(f"{lower}add images, or merge or remove the class".capitalize())
        raise DataErrors(manifest.data_dir, problems)
