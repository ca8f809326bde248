"""Folds: which images train and which validate, equal for every config with the same images.

Folds depend only on the manifest's content, its groups, the linked copies and the seed; not on the
order of files on disk, nor on where the folder lies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError, DataErrors, shown
from clip_pkg.study.duplicates import Clusters, Indices, equal_members, linked_sets
from clip_pkg.study.manifest import Manifest

MAX_ATTEMPTS = 20  # seeds tried for StratifiedGroupKFold
MANY_UNITS = 20_000
MAX_MIXED = 0.01  # share of images whose class differs from the first one of their unit
NO_FOLD = 0  # number of the only fold of `undivided` images


@dataclass(frozen=True, eq=False)
class Fold:
    """One division of the images into training and validation.

    Args:
        number: Counts from 1.
        train: Sorted indices into the manifest, int64.
        val: Sorted indices into the manifest, int64; every image is in `train` or `val`.
        repeat: Counts from 1; in each repeat, every image is in one `val` (unless for a hold-out).
    """

    number: int
    train: Indices
    val: Indices
    repeat: int = 1


@dataclass(frozen=True, eq=False)
class Splits:
    """All folds of an image set.

    Args:
        folds: R·K folds, those of a repeat after another; one for a hold-out.
        method: How they were made, for humans.
        n_splits: K, the folds of each repeat.
        random_state: Their seed; None for imported folds without one.
        fingerprint: `Manifest.fingerprint` of the images.
        hash: sha256 (hex) of each fold's validation images; equal if and only if folds and images
            are equal, wherever the images lie.
        linked: Clusters of image indices that share a fold, in addition to the manifest's groups.
    """

    folds: tuple[Fold, ...]
    method: str
    n_splits: int
    random_state: int | None
    fingerprint: str
    hash: str
    linked: Clusters = ()

    @property
    def n_repeats(self) -> int:
        """R: how often the images were divided."""
        return max(fold.repeat for fold in self.folds)


def unit_numbers(manifest: Manifest, linked: Sequence[Sequence[int]] = ()) -> Indices:
    """[N] unit of each image; images of one unit must share a fold (one group, or linked)."""
    groups = equal_members(manifest.groups or ())
    return linked_sets(len(manifest), [*groups, *linked])


def missing_classes(manifest: Manifest, folds: Sequence[Fold]) -> list[str]:
    """Folds that lack a class in training or validation, one sentence each."""
    return [
        f"fold {fold.number}: no image of class '{shown(manifest.classes[label])}' for {split}"
        for fold in folds
        for split, indices in (("training", fold.train), ("validation", fold.val))
        for label in np.flatnonzero(manifest.counts_of(indices) == 0)
    ]


def splits_hash(manifest: Manifest, folds: Sequence[Fold]) -> str:
    """sha256 (hex) of the paths and digests of each fold's validation images."""
    content = [
        [[manifest.paths[index], manifest.digests[index]] for index in fold.val] for fold in folds
    ]
    return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()


def make_splits(
    manifest: Manifest,
    *,
    use_cv: bool,
    n_splits: int,
    random_state: int,
    val_fraction: float,
    n_repeats: int = 1,
    linked: Sequence[Sequence[int]] = (),
) -> Splits:
    """Divide the images, stratified by class.

    With `use_cv` every image is in exactly one of `n_splits` validation folds, in each of
    `n_repeats` divisions with a seed of its own (`repeat_seed`); without it, a single fold
    validates on `val_fraction` of each class. Images of one group or of one `linked` cluster share
    a fold.

    Raises:
        DataErrors: Classes have too few images, or their groups leave a fold without them.
    """
    units = unit_numbers(manifest, linked)
    _refuse_scarce_classes(manifest, units, n_splits if use_cv else None)
    if use_cv:
        seeds = [repeat_seed(random_state, repeat) for repeat in range(1, n_repeats + 1)]
        made = [stratified_folds(manifest.labels, units, n_splits, seed) for seed in seeds]
        masks = [fold_of == number for fold_of, _ in made for number in range(n_splits)]
        method = "; ".join(dict.fromkeys(method for _, method in made))
    else:
        masks = [stratified_holdout(manifest.labels, units, val_fraction, random_state)]
        method = f"stratified hold-out of {val_fraction:g}"
    per_repeat = n_splits if use_cv else 1
    folds = tuple(
        Fold(place + 1, np.flatnonzero(~mask), np.flatnonzero(mask), place // per_repeat + 1)
        for place, mask in enumerate(masks)
    )
    problems = missing_classes(manifest, folds)
    if problems:
        hint = f"no division into {per_repeat} folds keeps groups whole and every class in every "
        hint += "fold: lower n_splits, or merge classes"
        raise DataErrors(manifest.source, [*problems, hint])
    return Splits(
        folds=folds,
        method=method,
        n_splits=per_repeat,
        random_state=random_state,
        fingerprint=manifest.fingerprint,
        hash=splits_hash(manifest, folds),
        linked=tuple(tuple(int(index) for index in cluster) for cluster in linked),
    )


def repeat_seed(random_state: int, repeat: int) -> int:
    """Seed of a division; that of the first one, repeat 1, is `random_state` itself."""
    if repeat == 1:
        return random_state
    # 0 in the middle: attempts for groups (see `stratified_folds`) derive theirs from two numbers.
    return int(np.random.SeedSequence([random_state, 0, repeat]).generate_state(1)[0])


def undivided(manifest: Manifest) -> Splits:
    """A single fold, `NO_FOLD`, that trains on all images and validates on none."""
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
    """Set aside `fraction` of a training fold to choose the epoch; returns (rest, set aside).

    Both are sorted indices into the manifest. Stratified; groups and `linked` clusters (see
    `Splits.linked`) stay whole. A class with a single unit stays in the rest.

    Raises:
        DataError: No image can be set aside.
    """
    units = unit_numbers(manifest, linked)
    held = stratified_holdout(manifest.labels[train], units[train], fraction, seed)
    if not held.any():
        raise DataError(
            f"inner_val_fraction {fraction:g} sets no image aside: every class of the training "
            "fold has a single image or group; set it to 0"
        )
    return train[~held], train[held]


def _refuse_scarce_classes(manifest: Manifest, units: Indices, n_splits: int | None) -> None:
    """Raise DataErrors for classes with too few units; n_splits: None for a hold-out."""
    available = units_per_class(manifest.labels, units)
    goal = f"{n_splits} folds" if n_splits else "a training and a validation split"
    problems = []
    for name, images, count in zip(manifest.classes, manifest.class_counts, available, strict=True):
        if count < (n_splits or 2):
            tied = f" in {count} groups that must stay whole" if count < images else ""
            problems.append(
                f"class '{shown(name)}' has {images} image(s){tied}, too few for {goal}"
            )
    if problems:
        least = int(available.min())
        lower = f"lower n_splits to at most {least}, " if n_splits and least > 1 else ""
        problems.append(f"{lower}add images, or merge or remove the class".capitalize())
        raise DataErrors(manifest.source, problems)


def units_per_class(labels: Indices, units: Indices) -> Indices:
    """[C] number of units with at least one image of each class."""
    pairs = np.unique(np.stack([labels, units]), axis=1)
    return np.bincount(pairs[0], minlength=int(labels.max()) + 1).astype(np.int64)


def stratified_folds(
    labels: Indices, units: Indices, n_splits: int, seed: int
) -> tuple[Indices, str]:
    """Assign each image to one of `n_splits` folds; returns the fold [N] from 0, and the method.

    scikit-learn's StratifiedKFold if every unit is one image, otherwise its StratifiedGroupKFold.
    The latter may leave a fold without a class; then it runs again with seeds derived from `seed`,
    up to `MAX_ATTEMPTS` times; the last result is returned either way.

    StratifiedGroupKFold assigns units one by one, which takes half a minute for 100,000. With
    more than `MANY_UNITS` units of which at most `MAX_MIXED` of the images differ in class from the
    first one of their unit, StratifiedKFold divides the units by that class instead; with so many
    units, the differing sizes hardly matter.
    """
    # Imported late: it takes a second, and validating a config does not need it.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # noqa: PLC0415

    _, first, unit_of = np.unique(units, return_index=True, return_inverse=True)
    mixed = (labels != labels[first][unit_of]).mean()
    if len(first) == len(units) or (mixed <= MAX_MIXED and len(first) > MANY_UNITS):
        plain = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
        order = np.sort(first)  # units by their first image
        fold_of = np.empty(len(units), dtype=np.int64)
        fold_of[order] = _fold_of(plain.split(order, labels[order]), len(order))
        suffix = "" if len(first) == len(units) else " of units"
        return fold_of[first][unit_of], f"StratifiedKFold{suffix}"
    for attempt in range(MAX_ATTEMPTS):
        derived = int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0])
        state = derived if attempt else seed
        grouped = StratifiedGroupKFold(n_splits, shuffle=True, random_state=state)
        fold_of = _fold_of(grouped.split(labels, labels, units), len(labels))
        if fold_class_counts(labels, fold_of, n_splits).min() > 0:
            break
    suffix = f", attempt {attempt + 1}" if attempt else ""
    return fold_of, f"StratifiedGroupKFold{suffix}"


def fold_class_counts(labels: Indices, fold_of: Indices, n_splits: int) -> Indices:
    """[K, C] number of images of each class in each fold."""
    classes = int(labels.max()) + 1
    flat = np.bincount(fold_of * classes + labels, minlength=n_splits * classes)
    return flat.reshape(n_splits, classes).astype(np.int64)


def stratified_holdout(
    labels: Indices, units: Indices, fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Choose about `fraction` of each class; returns [N], True for the images held out.

    Every class with at least two units keeps images in both splits. Units are tried from largest to
    smallest, in random order among equals, and held out only if that brings the classes closer to
    their shares; with units of one image, shares are exact up to rounding.
    """
    _, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    unit_of = np.argsort(np.argsort(first))[inverse]  # [N], numbered by first occurrence
    counts = np.zeros((len(first), int(labels.max()) + 1), dtype=np.int64)  # [units, C]
    np.add.at(counts, (unit_of, labels), 1)
    totals = counts.sum(axis=0)
    target = np.clip(np.rint(fraction * totals), np.minimum(1, totals - 1), totals - 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    held = np.zeros(len(counts), dtype=np.bool_)
    have = np.zeros_like(totals)

    def fits(unit: int) -> bool:
        """Whether each class keeps a training image if `unit` is held out as well."""
        row = counts[unit]
        return bool((have + row < totals)[row > 0].all())

    for unit in order:
        gain = np.abs(target - have).sum() - np.abs(target - have - counts[unit]).sum()
        if gain > 0 and fits(unit):
            held[unit] = True
            have += counts[unit]
    for label in np.argsort(totals, kind="stable"):  # its units were too large for its share
        if have[label] == 0:
            smallest = [u for u in order[::-1] if counts[u, label] and not held[u] and fits(u)][:1]
            held[smallest] = True
            have += counts[smallest].sum(axis=0)
    return held[unit_of]


def _fold_of(folds: Iterable[tuple[Indices, Indices]], count: int) -> Indices:
    fold_of = np.full(count, -1, dtype=np.int64)
    for number, (_, val) in enumerate(folds):
        fold_of[val] = number
    return fold_of
