"""Decoding images into their places of a pixel file; if it takes long, in several processes.

Legend: N images, S side of the stored square in pixels, a block is a run of up to 32 images.

No torch here: decoding processes should start fast and be small. They write their rows into the
file themselves, so that no pixels pass between processes.
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
# Small sets are done before further processes have started.
SECONDS_ALONE = 1.5
BLOCKS_PER_PROCESS = 4  # in work or waiting for it


@dataclass(frozen=True)
class Block:
    """Images `first`, `first` + 1, … of a pixel file, and where their pixels go.

    files, digests: path and expected sha256 (hex) of each image. size: S.
    target: the pixel file. offset: byte at which image `first` begins.
    """

    first: int
    files: tuple[Path, ...]
    digests: tuple[str, ...]
    size: int
    target: Path
    offset: int


@dataclass(frozen=True)
class FilledBlock:
    """What is known of a block once it is in the file: its first image, length and CRC-32."""

    first: int
    images: int
    checksum: int


def squash(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize [height, width, 3] to [size, size, 3]; the whole image, so its aspect ratio changes.

    Bicubic, with Pillow's antialiasing when it shrinks: it is what CLIP's and most of timm's
    weights were trained on, and it overshoots less at hard edges (an implant on an X-ray) than
    Lanczos, which rings, while a box filter blurs when enlarging is needed as well.
    """
    if image.shape[:2] == (size, size):
        return image
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def fill_blocks(blocks: Iterable[Block], *, workers: int) -> Iterator[FilledBlock]:
    """Decode all blocks, in any order, with up to `workers` processes (0 and 1: this one).

    Only a few blocks per process are asked for at a time.

    Raises DataError naming the image that cannot be decoded or changed since it was listed; OSError
    if the target cannot be written.
    """
    begin = time.monotonic()
    waiting = iter(blocks)
    while workers <= 1 or time.monotonic() - begin < SECONDS_ALONE:
        block = next(waiting, None)
        if block is None:
            return
        yield fill(block)
    begun = list(islice(waiting, workers * BLOCKS_PER_PROCESS))
    if begun:
        yield from _fill_in_processes(begun, waiting, min(workers, len(begun)))


def _fill_in_processes(
    first: Iterable[Block], others: Iterator[Block], workers: int
) -> Iterator[FilledBlock]:
    # Spawned, because a forked copy of a process with threads may hang in a lock.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_live_with_the_parent,
    )
    try:
        begun = {pool.submit(fill, block) for block in first}
        while begun:
            done, begun = wait(begun, return_when=FIRST_COMPLETED)
            begun |= {pool.submit(fill, block) for block in islice(others, len(done))}
            yield from (one.result() for one in done)
    except BrokenProcessPool:
        raise DataError(
            "a process that decodes images was killed, as happens when memory runs out; lower "
            "`num_workers`"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _live_with_the_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, however it ends."""
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
    """Pixels [size, size, 3] of an image file, if it still has the bytes that were listed.

    digest: sha256 (hex) of these. Raises DataError naming the file if it changed or is unreadable.
    """
    content = read_file(file)
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"{shown(file)}: changed since the images were checked; start again")
    return squash(decode(content, file).pixels, size)
