"""What a fold is, which images it must not tear apart, and what tells two divisions apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import shown
from clip_pkg.study.duplicates import Clusters, DisjointSets
from clip_pkg.study.manifest import Manifest

Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fold:
    """One division of the images.

    Args:
        number: Counts from 1.
        train: Sorted indices into the manifest, int64.
        val: Sorted indices into the manifest, int64; with `train` it holds every image once.
    """

    number: int
    train: Indices
    val: Indices


@dataclass(frozen=True, eq=False)
class Splits:
    """All folds of an image set.

    Args:
        folds: K folds; one for a hold-out.
        method: How they were made, for the record.
        n_splits: K.
        random_state: Seed they were made with; None for imported folds that do not tell.
        fingerprint: `Manifest.fingerprint` of the images.
        hash: sha256 (hex) over each fold's validation images; equal exactly for equal folds of
            equal images, wherever these lie.
        linked: Clusters of image indices that were kept together, beside the manifest's groups.
    """

    folds: tuple[Fold, ...]
    method: str
    n_splits: int
    random_state: int | None
    fingerprint: str
    hash: str
    linked: Clusters = ()


def unit_numbers(manifest: Manifest, linked: Sequence[Sequence[int]] = ()) -> Indices:
    """[N] equal numbers for images that must share a fold: of one group, or linked."""
    sets = DisjointSets(len(manifest))
    first: dict[str, int] = {}
    for index, group in enumerate(manifest.groups or ()):
        sets.join(first.setdefault(group, index), index)
    for cluster in linked:
        for other in cluster[1:]:
            sets.join(cluster[0], other)
    return sets.names()


def missing_classes(manifest: Manifest, folds: Sequence[Fold]) -> list[str]:
    """Name each fold that lacks a class in training or validation."""
    return [
        f"fold {fold.number}: no image of class '{shown(manifest.classes[label])}' for {side}"
        for fold in folds
        for side, indices in (("training", fold.train), ("validation", fold.val))
        for label in np.flatnonzero(manifest.counts_of(indices) == 0)
    ]


def splits_hash(manifest: Manifest, folds: Sequence[Fold]) -> str:
    """Sha256 (hex) over paths and digests of each fold's validation images."""
    content = [
        [[manifest.paths[index], manifest.digests[index]] for index in fold.val] for fold in folds
    ]
    return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()
