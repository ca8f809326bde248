"""Random numbers that belong to an image and an epoch, not to the order of asking for them.

Legend: B images, R numbers per image.

A generator with a state gives an image other numbers when the batch, the number of workers or the
device changes, and has to be saved to resume a run. Here each number is a function of its place:
(seed, fold, epoch, stream) makes a key; the n-th output of SplitMix64 (Steele, Lea & Flood 2014,
"Fast splittable pseudorandom number generators", OOPSLA) started at that key is the state of a
SplitMix64 of its own for image n, whose outputs are the image's numbers. Integer arithmetic only,
so the bits are the same on every machine and with every version of the libraries.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the step of SplitMix64: 2^64 / golden ratio, odd
MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
SHIFT_1, SHIFT_2, SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
MANTISSA_SHIFT = np.uint64(11)  # 64 bits to the 53 that a float64 holds exactly


class StreamKey(NamedTuple):
    """Which numbers: those of `stream` ("augmentation", "order", …) in one epoch of one fold."""

    seed: int
    fold: int
    epoch: int
    stream: str


def derive_seed(*parts: int | str) -> int:
    """Hash `parts` to an integer in [0, 2^63): equal in every process, version and machine.

    Meant for seeds of library generators, as in
    `generator.manual_seed(derive_seed(seed, fold, "initial weights"))`. 1 and "1" differ.
    """
    text = json.dumps([part if isinstance(part, str) else int(part) for part in parts])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1


def uniforms(
    key: StreamKey, image_index: NDArray[np.integer[Any]], count: int
) -> NDArray[np.float64]:
    """Independent uniform numbers in [0, 1): `count` = R of them for each of B images, [B, R].

    `image_index` [B] are integers ≥ 0. A row depends on the key and on its own index alone, and
    the first numbers of a row do not depend on R.
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
