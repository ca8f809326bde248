"""One look into every image file: can it be decoded, what is in it, what does it resemble."""

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

THUMBNAIL = 32  # side in pixels
MAX_THREADS = 16  # each may hold a few hundred megabytes of a huge image
FILES_PER_THREAD = 8  # in work or waiting for it
Progress: TypeAlias = Callable[[int, int], None]
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False, slots=True)  # there may be a million of them
class Inspection:
    """What one readable image file holds.

    Args:
        digest: sha256 (hex) of the file's bytes.
        pixel_digest: sha256 of size and decoded RGB; equal for losslessly re-encoded copies.
        thumbnail: uint8 [32, 32], luminance averaged over equal blocks of the image.
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
    return Inspection(
        digest=hashlib.sha256(content).hexdigest(),
        pixel_digest=hashlib.sha256(size + pixels.tobytes()).digest(),
        thumbnail=np.asarray(thumbnail),
        format=sys.intern(decoded.format),
        mode=sys.intern(decoded.mode),
        width=width,
        height=height,
        frames=decoded.frames,
        peak=decoded.peak,
        blank=bool((pixels == pixels[0, 0]).all()),
    )


def inspect_files(
    root: Path, names: Sequence[str], progress: Progress | None = None
) -> list[Inspection | UnreadableImage]:
    """Inspect the files called `names` in `root`; see `_each_file`."""
    return _each_file(inspect_file, root, names, progress)


def file_digests(
    root: Path, names: Sequence[str], progress: Progress | None = None
) -> list[str | UnreadableImage]:
    """sha256 (hex) of the files called `names` in `root`, which are not decoded."""
    return _each_file(_digest, root, names, progress)


def _digest(path: Path) -> str:
    return hashlib.sha256(read_file(path)).hexdigest()


def _each_file(
    look: Callable[[Path], Found], root: Path, names: Sequence[str], progress: Progress | None
) -> list[Found | UnreadableImage]:
    """Look at the files called `names` in `root`, in parallel; the result is in their order.

    Threads do: Pillow and hashlib let go of the interpreter lock while they work, and threads need
    neither a fork nor a second import. `progress` is called with (done, total) from this thread.
    """

    def attempt(name: str) -> Found | UnreadableImage:
        try:
            return look(root / name)
        except UnreadableImage as error:
            return error

    found: list[Found | UnreadableImage] = []
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    waiting = iter(names)
    pool = ThreadPoolExecutor(threads)
    try:
        with warnings.catch_warnings():
            # What Pillow warns of (size, odd EXIF) is either refused or of no consequence here.
            warnings.filterwarnings("ignore", module="PIL")
            begun = deque(
                pool.submit(attempt, name) for name in islice(waiting, threads * FILES_PER_THREAD)
            )
            while begun:
                found.append(begun.popleft().result())
                begun.extend(pool.submit(attempt, name) for name in islice(waiting, 1))
                if progress is not None:
                    progress(len(found), len(names))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the images in work, not for all
    return found
