"""One look into every image file: can it be decoded, what is in it, what does it resemble."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_pkg.planning.decoding import UnreadableImage, decode, read_file

THUMBNAIL = 32  # side in pixels
MAX_THREADS = 16  # each may hold a few hundred megabytes of a huge image
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
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
        format=decoded.format,
        mode=decoded.mode,
        width=width,
        height=height,
        frames=decoded.frames,
        peak=decoded.peak,
        blank=bool((pixels == pixels[0, 0]).all()),
    )


def inspect_files(
    files: Sequence[Path], progress: Progress | None = None
) -> list[Inspection | UnreadableImage]:
    """Inspect all files in parallel; the result is in the order of `files`.

    Threads do: Pillow and hashlib let go of the interpreter lock while they work, and threads need
    neither a fork nor a second import. `progress` is called with (done, total) from this thread.
    """

    def attempt(path: Path) -> Inspection | UnreadableImage:
        try:
            return inspect_file(path)
        except UnreadableImage as error:
            return error

    found: list[Inspection | UnreadableImage] = []
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
    try:
        with warnings.catch_warnings():
            # What Pillow warns of (size, odd EXIF) is either refused or of no consequence here.
            warnings.filterwarnings("ignore", module="PIL")
            for result in pool.map(attempt, files):
                found.append(result)
                if progress is not None:
                    progress(len(found), len(files))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the images in work, not for all
    return found
