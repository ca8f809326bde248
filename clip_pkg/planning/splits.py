"""Folds: who trains and who validates, the same for every config on the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Fold:
    """One division of the images.

    Args:
        number: Counts from 1.
        train: Sorted indices into the manifest, int64.
        val: Sorted indices into the manifest, int64; with `train` it holds every image once.
    """

    number: int
    train: NDArray[np.int64]
    val: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Splits:
    """All folds of an image set.

    Args:
        folds: K folds; one for a hold-out.
        method: How they were made, for the record.
        n_splits: K as asked for, 1 for a hold-out.
        random_state: Seed they were made with; None for imported folds without one.
        fingerprint: `Manifest.fingerprint` of the images.
        hash: sha256 (hex) over each fold's validation images; equal exactly for equal folds of
            equal images, wherever these lie.
    """

    folds: tuple[Fold, ...]
    method: str
    n_splits: int
    random_state: int | None
    fingerprint: str
    hash: str
