"""Reads and decodes every image file once: digests, size, format and a thumbnail of each."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_pkg.study.decoding import UnreadableImage, decode, read_file

THUMBNAIL = 32  # width and height, pixels
FRAME_LEVELS = 16  # a frame's lines of pixels differ by less
MAX_THREADS = 16  # a huge image takes a few hundred megabytes in each
FILES_PER_THREAD = 8  # submitted at a time

OnProgress: TypeAlias = Callable[[int, int], None]  # called with (done, total)
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False, slots=True)  # there may be a million of them
class Inspection:
    """Content of one readable image file.

    Args:
        digest: sha256 (hex) of the file's bytes.
        pixel_digest: sha256 of size and decoded RGB; equal for losslessly re-encoded copies.
        thumbnail: uint8 [32, 32], luminance averaged over equal blocks of the image.
        unframed: the same of the image without uniform edges; None if it has none, or
            if less than 32 pixels remain.
        format: Pillow's name of the file format.
        mode: Pillow's name of the stored pixel type.
        width: Pixels, upright.
        height: Pixels, upright.
        frames: Pages or frames in the file.
        peak: See `DecodedImage`.
        blank: Whether all pixels are equal.
    """

    digest: str
    pixel_digest: bytes
    thumbnail: NDArray[np.uint8]
    unframed: NDArray[np.uint8] | None
    format: str
    mode: str
    width: int
    height: int
    frames: int
    peak: float | None
    blank: bool


def inspect_file(path: Path) -> Inspection:
    """Read, decode and describe one file.

    Raises:
        UnreadableImage: See `decode_image`.
    """
    content = read_file(path)
    decoded = decode(content, path)
    pixels = decoded.pixels
    height, width = pixels.shape[:2]
    size = f"{width}x{height}:".encode("ascii")
    grey = Image.fromarray(pixels).convert("L")
    thumbnail = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    unframed = None
    left, top, right, bottom = box = content_box(np.asarray(grey))
    if box != (0, 0, width, height) and min(right - left, bottom - top) >= THUMBNAIL:
        unframed = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, box)
    return Inspection(
        digest=hashlib.sha256(content).hexdigest(),
        pixel_digest=hashlib.sha256(size + pixels.tobytes()).digest(),
        thumbnail=np.asarray(thumbnail),
        unframed=None if unframed is None else np.asarray(unframed),
        format=sys.intern(decoded.format),
        mode=sys.intern(decoded.mode),
        width=width,
        height=height,
        frames=decoded.frames,
        peak=decoded.peak,
        blank=bool((pixels == pixels[0, 0]).all()),
    )


def content_box(grey: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of [height, width] levels without uniform edges.

    At least half of the width and height remains.
    """
    height, width = grey.shape
    left, top, right, bottom = 0, 0, width, height

    def is_uniform(line: NDArray[np.uint8]) -> bool:
        return int(line.max()) - int(line.min()) < FRAME_LEVELS

    before = None
    while before != (before := (left, top, right, bottom)):
        while bottom - top > height / 2 and is_uniform(grey[top, left:right]):
            top += 1
        while bottom - top > height / 2 and is_uniform(grey[bottom - 1, left:right]):
            bottom -= 1
        while right - left > width / 2 and is_uniform(grey[top:bottom, left]):
            left += 1
        while right - left > width / 2 and is_uniform(grey[top:bottom, right - 1]):
            right -= 1
    return left, top, right, bottom


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file, which is not decoded.

    Raises:
        UnreadableImage: See `read_file`.
    """
    return hashlib.sha256(read_file(path)).hexdigest()


def each_file(
    read: Callable[[Path], Found], root: Path, names: Sequence[str], progress: OnProgress | None
) -> list[Found | UnreadableImage]:
    """Call `read` on the files `names` in `root`, in parallel; the result is in their order.

    `progress` is called from this thread. Threads are enough: Pillow and hashlib release the
    interpreter lock while they work.
    """

    def attempt(name: str) -> Found | UnreadableImage:
        try:
            return read(root / name)
        except UnreadableImage as error:
            return error

    found: list[Found | UnreadableImage] = []
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    waiting = iter(names)
    pool = ThreadPoolExecutor(threads)
    try:
        with warnings.catch_warnings():
            # Pillow warns of size and odd EXIF; here, these are errors or do not matter.
            warnings.filterwarnings("ignore", module="PIL")
            pending = deque(
                pool.submit(attempt, name) for name in islice(waiting, threads * FILES_PER_THREAD)
            )
            while pending:
                found.append(pending.popleft().result())
                pending.extend(pool.submit(attempt, name) for name in islice(waiting, 1))
                if progress is not None:
                    progress(len(found), len(names))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for running threads only
    return found
