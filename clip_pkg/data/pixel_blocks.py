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
class Block:
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


@dataclass(frozen=True)
class FilledBlock:
    """A block in the file: its first image, length and CRC-32."""

    first: int
    images: int
    checksum: int


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


def fill_blocks(blocks: Iterable[Block], *, workers: int) -> Iterator[FilledBlock]:
    """Decode all blocks, in any order, with up to `workers` processes (0 and 1: this one).

    Takes only a few blocks per process from `blocks` at a time.

    Raises DataError naming the image that changed or cannot be decoded; OSError if the target
    cannot be written.
    """
    begin = time.monotonic()
    waiting = iter(blocks)
    while workers <= 1 or time.monotonic() - begin < SECONDS_ALONE:
        block = next(waiting, None)
        if block is None:
            return
        yield fill(block)
    first = list(islice(waiting, workers * BLOCKS_PER_PROCESS))
    if first:
        yield from _fill_in_processes(first, waiting, min(workers, len(first)))


def _fill_in_processes(
    first: Iterable[Block], others: Iterator[Block], workers: int
) -> Iterator[FilledBlock]:
    # Spawned, because a forked copy of a process with threads can deadlock.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    )
    try:
        pending = {pool.submit(fill, block) for block in first}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            pending |= {pool.submit(fill, block) for block in islice(others, len(done))}
            yield from (one.result() for one in done)
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

    def end_with(process: multiprocessing.process.BaseProcess) -> None:
        process.join()
        os._exit(1)

    threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def fill(block: Block) -> FilledBlock:
    """Decode, resize and write one block."""
    pixels = np.empty((len(block.files), block.size, block.size, 3), dtype=np.uint8)
    for row, (file, digest) in enumerate(zip(block.files, block.digests, strict=True)):
        pixels[row] = square(file, digest, block.size)
    with block.target.open("r+b") as stream:
        stream.seek(block.offset)
        stream.write(pixels.data)
    return FilledBlock(block.first, len(pixels), zlib.crc32(pixels.data))


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
