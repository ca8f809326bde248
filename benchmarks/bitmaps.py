"""A folder of so many tiny images, no two alike, written as fast as files can be made."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIDE = 8  # pixels
CLASSES = 10
PIXEL_BYTES = SIDE * SIDE * 3
# Windows bitmap, 24 bits, no compression: file header, then the smallest information header.
HEADER = struct.pack("<2sIHHI", b"BM", 54 + PIXEL_BYTES, 0, 0, 54) + struct.pack(
    "<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, PIXEL_BYTES, 2835, 2835, 0, 0
)
AT_ONCE = 10_000


def make_images(folder: Path, count: int, progress: Callable[[int, int], None]) -> None:
    """Write `count` bitmaps of noise into class folders of about equal size."""
    draw = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class_{label}").mkdir(parents=True)
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        noise = draw.integers(0, 256, (len(numbers), PIXEL_BYTES), dtype=np.uint8)
        for number, pixels in zip(numbers, noise, strict=True):
            name = f"class_{number % CLASSES}/{number:07d}.bmp"
            (folder / name).write_bytes(HEADER + pixels.tobytes())
        progress(numbers.stop, count)
