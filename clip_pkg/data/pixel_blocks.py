"""Decodes images into a pixel file, in several processes if it takes long.

Legend: N images, S width and height of the stored squares in pixels; a block is up to 32 images.

No torch here: decoding processes start fast and stay small. They write their pixels into the file
themselves, so that no pixels pass between processes.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_pkg.base.errors import DataError, shown
from clip_pkg.study.decoding import decode, read_file

IMAGES_PER_BLOCK = 32
SECONDS_ALONE = 1.5  # before further processes start; small image sets need none
BLOCKS_PER_PROCESS = 4  # submitted at a time


@dataclass(frozen=True)
class PixelBlock:
    """Images `first`, `first` + 1, … of a pixel file, and the place of their pixels.

    files, digests: path and expected sha256 (hex) of each image. size: S.
    target: the pixel file. offset: byte of image `first`.
    """

    first: int
    files: tuple[Path, ...]
    digests: tuple[str, ...]
    size: int
    target: Path
    offset: int


def squash(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize [height, width, 3] to [size, size, 3]; the aspect ratio is not kept.

    Bicubic, antialiased when shrinking, as in the training of CLIP's and most of timm's weights. At
    sharp edges (an implant on an X-ray) it rings less than Lanczos; a box filter would blur
    enlarged images.
    """
    if image.shape[:2] == (size, size):
        return image
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def fill_blocks(
    blocks: Iterable[PixelBlock], *, workers: int
) -> Iterator[tuple[PixelBlock, list[int]]]:
    """Decode all blocks with up to `workers` processes (0 and 1: this one).

    Yields each with the CRC-32 of its images.

    Blocks finish in any order. Takes only a few per process from `blocks` at a time.

    Raises DataError naming the image that changed or cannot be decoded; OSError if the target
    cannot be written.
    """
    begin = time.monotonic()
    waiting = iter(blocks)
    while workers <= 1 or time.monotonic() - begin < SECONDS_ALONE:
        block = next(waiting, None)
        if block is None:
            return
        yield block, fill(block)
    first = list(islice(waiting, workers * BLOCKS_PER_PROCESS))
    if not first:
        return
    # Spawned, because a forked copy of a process with threads can deadlock.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(first)), spawn, _end_with_parent)
    try:
        pending = {pool.submit(fill, block): block for block in first}
        while pending:
            for one in wait(pending, return_when=FIRST_COMPLETED).done:
                block = pending.pop(one)
                pending |= {pool.submit(fill, new): new for new in islice(waiting, 1)}
                yield block, one.result()
    except BrokenProcessPool:
        raise DataError(
            "a process that decodes images was killed, probably because memory ran out; lower "
            "`num_workers`"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Ignore Ctrl-C, and end when the parent process ends for any reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child process"

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def fill(block: PixelBlock) -> list[int]:
    """Decode, resize and write one block; returns the CRC-32 of each image's pixels."""
    pixels = np.empty((len(block.files), block.size, block.size, 3), dtype=np.uint8)
    for row, (file, digest) in enumerate(zip(block.files, block.digests, strict=True)):
        pixels[row] = square(file, digest, block.size)
    with block.target.open("r+b") as stream:
        stream.seek(block.offset)
        stream.write(pixels.data)
    return [zlib.crc32(image.data) for image in pixels]


def square(file: Path, digest: str, size: int) -> NDArray[np.uint8]:
    """Pixels [size, size, 3] of an image file with the digest `digest` (sha256, hex).

    Raises DataError naming the file if it changed or cannot be decoded.
    """
    content = read_file(file)
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(
            f"{shown(file)}: changed since the images were checked; run the command again"
        )
    return squash(decode(content, file).pixels, size)
