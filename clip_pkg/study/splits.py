"""Folds: who trains and who validates, the same for every config on the same images.

They follow from the manifest's content, its groups, the linked copies and the seed, and from
nothing else: not from the order of files on the disk, nor from where the folder lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError, DataErrors, shown
from clip_pkg.study.fold import (
    Fold,
    Indices,
    Splits,
    missing_classes,
    splits_hash,
    unit_numbers,
)
from clip_pkg.study.folds_info import splits_from_json, splits_to_json
from clip_pkg.study.manifest import Manifest

ATTEMPTS = 20
MANY_UNITS = 20_000
MIXED = 0.01


def units_per_class(labels: Indices, units: Indices) -> Indices:
    """[C] how many units have at least one image of each class."""
    pairs = np.unique(np.stack([labels, units]), axis=1)
    return np.bincount(pairs[0], minlength=int(labels.max()) + 1).astype(np.int64)


def stratified_folds(
    labels: Indices, units: Indices, n_splits: int, seed: int
) -> tuple[Indices, str]:
    """Assign each image to one of `n_splits` folds; returns the fold [N] from 0, and the method.

    scikit-learn's StratifiedKFold where every unit is one image, its StratifiedGroupKFold
    otherwise. The latter may leave a fold without a class; then it is asked again with seeds
    derived from `seed`, up to `ATTEMPTS` times, and the last answer stands for the caller to judge.

    StratifiedGroupKFold places one unit after the other, which takes half a minute for 100,000.
    Beyond `MANY_UNITS` units, if at most `MIXED` of the images differ in class from the first one
    of their unit, StratifiedKFold divides the units by that class instead: with so many, it makes
    no difference to a fold that some are two images.
    """
    # Imported late: it takes a second, and checking a config does not need it.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # noqa: PLC0415

    _, first, unit_of = np.unique(units, return_index=True, return_inverse=True)
    mixed = (labels != labels[first][unit_of]).mean()
    if len(first) == len(units) or (mixed <= MIXED and len(first) > MANY_UNITS):
        plain = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
        order = np.sort(first)  # units by their first image
        fold_of = np.empty(len(units), dtype=np.int64)
        fold_of[order] = _fold_of(plain.split(order, labels[order]), len(order))
        suffix = "" if len(first) == len(units) else " of units"
        return fold_of[first][unit_of], f"StratifiedKFold{suffix}"
    for attempt in range(ATTEMPTS):
        grouped = StratifiedGroupKFold(n_splits, shuffle=True, random_state=_derived(seed, attempt))
        fold_of = _fold_of(grouped.split(labels, labels, units), len(labels))
        if fold_class_counts(labels, fold_of, n_splits).min() > 0:
            break
    suffix = f", attempt {attempt + 1}" if attempt else ""
    return fold_of, f"StratifiedGroupKFold{suffix}"


def fold_class_counts(labels: Indices, fold_of: Indices, n_splits: int) -> Indices:
    """[K, C] images of each class in each fold."""
    classes = int(labels.max()) + 1
    flat = np.bincount(fold_of * classes + labels, minlength=n_splits * classes)
    return flat.reshape(n_splits, classes).astype(np.int64)


def stratified_holdout(
    labels: Indices, units: Indices, fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Choose about `fraction` of each class; returns True [N] for the images held out.

    Every class of at least two units is on both sides. The largest units are placed first, in
    random order among equals, each only if it brings the classes closer to their shares; with units
    of one image the shares are met exactly, up to rounding.
    """
    unit_of, counts = _unit_counts(labels, units)
    totals = counts.sum(axis=0)
    target = np.clip(np.rint(fraction * totals), np.minimum(1, totals - 1), totals - 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    held = np.zeros(len(counts), dtype=np.bool_)
    have = np.zeros_like(totals)

    def fits(unit: int) -> bool:
        """Whether each class keeps an image for training when `unit` is held out too."""
        row = counts[unit]
        return bool((have + row < totals)[row > 0].all())

    for unit in order:
        gain = np.abs(target - have).sum() - np.abs(target - have - counts[unit]).sum()
        if gain > 0 and fits(unit):
            held[unit] = True
            have += counts[unit]
    for label in np.argsort(totals, kind="stable"):  # units too large for a small class's share
        if have[label] == 0:
            smallest = [u for u in order[::-1] if counts[u, label] and not held[u] and fits(u)][:1]
            held[smallest] = True
            have += counts[smallest].sum(axis=0)
    return held[unit_of]


def _unit_counts(labels: Indices, units: Indices) -> tuple[Indices, Indices]:
    """Number the units by first occurrence [N], and count their images per class [U, C]."""
    _, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    unit_of = np.argsort(np.argsort(first))[inverse]
    counts = np.zeros((len(first), int(labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (unit_of, labels), 1)
    return unit_of, counts


def _fold_of(folds: object, count: int) -> Indices:
    assert hasattr(folds, "__iter__")
    fold_of = np.full(count, -1, dtype=np.int64)
    for number, (_, val) in enumerate(folds):
        fold_of[val] = number
    return fold_of


def _derived(seed: int, attempt: int) -> int:
    """Seed of a further attempt; the first one is `seed` itself."""
    return int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0]) if attempt else seed


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
