"""Order of the training images in an epoch.

Legend: N images of the training fold.

Concerns training images only; validation is complete and in order. Orders are functions of (seed,
fold, epoch), so that a resumed run draws the same as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the step of SplitMix64: 2^64 / golden ratio, odd
MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
SHIFT_1, SHIFT_2, SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
MANTISSA_SHIFT = np.uint64(11)  # 64 bits to the 53 that a float64 holds exactly


class StreamKey(NamedTuple):
    """A stream of random numbers ("augmentation", "order", …) in one epoch of one fold."""

    seed: int
    fold: int
    epoch: int
    stream: str


def derive_seed(*parts: int | str) -> int:
    """Hash `parts` to an integer in [0, 2^63), equal on every machine and in every process.

    For seeds of library generators, as in
    `generator.manual_seed(derive_seed(seed, fold, "initial weights"))`. 1 and "1" differ.
    """
    text = json.dumps([part if isinstance(part, str) else int(part) for part in parts])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1


def uniforms(
    key: StreamKey, image_index: NDArray[np.integer[Any]], count: int
) -> NDArray[np.float64]:
    """Independent uniform numbers in [0, 1): `count` = R of them for each of B images, [B, R].

    `image_index` [B] are integers ≥ 0. A row depends only on the key and its own index; its first
    numbers do not depend on R.
    """
    start = np.uint64(derive_seed(*key))
    states = _mix(start + (image_index.astype(np.uint64) + np.uint64(1)) * GAMMA)
    steps = np.arange(1, count + 1, dtype=np.uint64) * GAMMA
    bits = _mix(states[:, None] + steps)
    return (bits >> MANTISSA_SHIFT).astype(np.float64) * 2.0**-53


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit words; SplitMix64's finaliser (Stafford's variant 13 of MurmurHash3's)."""
    values = (values ^ (values >> SHIFT_1)) * MULTIPLIER_1
    values = (values ^ (values >> SHIFT_2)) * MULTIPLIER_2
    return values ^ (values >> SHIFT_3)


def epoch_order(
    labels: NDArray[np.integer[Any]],
    weights: NDArray[np.float64] | None,
    *,
    seed: int,
    fold: int,
    epoch: int,
    batch_size: int,
) -> NDArray[np.int64]:
    """Positions into `labels` [N] in the order of one epoch, int64 [N] or [N − 1].

    With class `weights` [C]: N draws with replacement, an image with the probability
    w[label] / Σ w[label]. Without: every image once, shuffled. A last batch of one image would
    break batch normalisation, so that image is left out. Raises DataError if nothing can be drawn.
    """
    count = len(labels)
    if count < 2:
        raise DataError(
            f"the training split of fold {fold} has {count} image{'' if count == 1 else 's'}; a "
            "training step needs at least 2: add images or use fewer folds"
        )
    numbers = uniforms(StreamKey(seed, fold, epoch, "order"), np.arange(count), 1)[:, 0]
    if weights is None:
        order = np.argsort(numbers, kind="stable")
    else:
        edges = np.cumsum(weights[labels])
        if not edges[-1] > 0:
            raise DataError(f"every class of fold {fold} has the sampling weight 0")
        # "right" steps over images of weight 0, whose edge equals the one before
        order = np.searchsorted(edges, numbers * edges[-1], side="right")
    return order[: count - 1 if count % batch_size == 1 else count].astype(np.int64, copy=False)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Count the training batches of an epoch over `count` images."""
    return count // batch_size + (count % batch_size > 1)


def occurrences(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each place of `order`, how often its value came earlier: [3, 5, 3] → [0, 0, 1]."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    starts = np.searchsorted(ordered, ordered, side="left")
    earlier = np.empty_like(order)
    earlier[by_value] = np.arange(len(order)) - starts
    return earlier
