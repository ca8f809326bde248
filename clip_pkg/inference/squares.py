"""Image files decoded ahead of the model that looks at them, a few batches at a time.

Legend: B images of a batch, S side of the square in pixels.

No torch here. The squares are those of a pixel store: decoded and resized by the same functions.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from clip_pkg.data.pixel_blocks import squash
from clip_pkg.errors import DataError
from clip_pkg.inference.images import ImageFile
from clip_pkg.planning.decoding import UnreadableImage, decode_image
from clip_pkg.planning.inspection import Progress

MAX_THREADS = 16  # each may hold a few hundred megabytes of a huge image
BATCHES_AHEAD = 2


@dataclass(frozen=True, eq=False)
class SquareBatch:
    """Decoded images, and those that cannot be decoded.

    images: the B decoded ones. pixels: uint8 [B, S, S, 3], RGB. unreadable: with file and reason.
    Together they are the next images of the list; B is 0 when the last of it is unreadable.
    """

    images: tuple[ImageFile, ...]
    pixels: NDArray[np.uint8]
    unreadable: tuple[UnreadableImage, ...]


def square_batches(
    images: Sequence[ImageFile], *, size: int, batch_size: int
) -> Iterator[SquareBatch]:
    """Decode and resize all images to S = `size`, in their order.

    Every batch but the last has exactly `batch_size` readable images.

    Threads do: Pillow lets go of the interpreter lock while it decodes and resizes.
    """
    kept: list[ImageFile] = []
    unreadable: list[UnreadableImage] = []
    pixels = np.empty((min(batch_size, len(images)), size, size, 3), dtype=np.uint8)
    for image, found in zip(images, _decoded(images, size, batch_size), strict=True):
        if isinstance(found, UnreadableImage):
            unreadable.append(found)
            continue
        pixels[len(kept)] = found
        kept.append(image)
        if len(kept) == batch_size:
            yield SquareBatch(tuple(kept), pixels, tuple(unreadable))
            kept, unreadable, pixels = [], [], np.empty_like(pixels)
    if kept or unreadable:
        yield SquareBatch(tuple(kept), pixels[: len(kept)], tuple(unreadable))


def readable_batches(
    images: Sequence[ImageFile],
    *,
    size: int,
    batch_size: int,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Iterator[SquareBatch]:
    """Batches of `square_batches` for somebody who works on each while the next ones are decoded.

    Without `skip_unreadable` nothing comes from the first unreadable image on, the others are only
    checked, and a DataError that names all unreadable ones comes at the end. So it does in any
    case when not a single image can be read. `progress` is called with (done, total) after each
    batch.
    """
    unreadable: list[UnreadableImage] = []
    done = 0
    for batch in square_batches(images, size=size, batch_size=batch_size):
        unreadable += batch.unreadable
        if skip_unreadable or not unreadable:
            yield batch
        done += len(batch.images) + len(batch.unreadable)
        if progress is not None:
            progress(done, len(images))
    if unreadable and (not skip_unreadable or len(unreadable) == len(images)):
        head = f"{len(unreadable)} of {len(images)} image(s) cannot be read:"
        hint = () if skip_unreadable else ("--skip-unreadable leaves them out",)
        raise DataError("\n  ".join([head, *map(str, unreadable), *hint]))


def _decoded(
    images: Sequence[ImageFile], size: int, batch_size: int
) -> Iterator[NDArray[np.uint8] | UnreadableImage]:
    """Squares or the reasons why not, in order, at most `BATCHES_AHEAD` batches too early."""

    def attempt(image: ImageFile) -> NDArray[np.uint8] | UnreadableImage:
        try:
            return squash(decode_image(image.file), size)
        except UnreadableImage as error:
            return error

    waiting = iter(images)
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
    try:
        begun: deque[Future[NDArray[np.uint8] | UnreadableImage]] = deque(
            pool.submit(attempt, image) for image in islice(waiting, BATCHES_AHEAD * batch_size)
        )
        while begun:
            yield begun.popleft().result()
            begun.extend(pool.submit(attempt, image) for image in islice(waiting, 1))
    finally:
        pool.shutdown(cancel_futures=True)
