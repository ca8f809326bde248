"""Where a batch's pixels come from, by device and by how much fits on it.

On the host they come from a pixel store or, where none fits, from an `ImageDecoder`.

Legend: N images of the manifest, B images of a batch, S side of the stored square in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_pkg.data.pixel_store import PixelStore

RESIDENT_SHARE = 0.25  # of the device's free memory that pixels may take by default
UPLOAD_IMAGES = 1024  # images copied at once, so that the host holds little

Item = TypeVar("Item")


class HostImages(Protocol):
    """Pixels in the host's memory, of all N images: a `PixelStore` or an `ImageDecoder`."""

    @property
    def size(self) -> int:
        """S, pixels."""
        ...

    def batches(self, chunks: Iterable[NDArray[np.int64]]) -> Iterator[NDArray[np.uint8]]:
        """Images at each of `chunks` [B]: uint8 [B, S, S, 3], arrays of their own."""
        ...

    def close(self) -> None:
        """Let go of files and processes."""
        ...


class PixelSource(Protocol):
    """Pixels batch by batch, on one device."""

    @property
    def device(self) -> torch.device:
        """Where they are."""
        ...

    def stream(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        """Images at the positions `order` in runs of `batch_size`: uint8 [B, S, S, 3] each."""
        ...

    def close(self) -> None:
        """Let go of files and processes."""
        ...


class HostPixels:
    """Taken from the host's memory as batches are asked for.

    No thread reads a store ahead: 32 images of 256×256 pixels take 0.5 ms from the page cache,
    against a second and more for a training step on a CPU.
    """

    def __init__(self, images: HostImages, device: torch.device) -> None:
        self.device = device
        self._images = images
        self.close = images.close

    def stream(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        """See `PixelSource`."""
        for pixels in self._images.batches(_chunks(order, batch_size)):
            yield torch.from_numpy(pixels).to(self.device)


class ResidentPixels:
    """The whole store copied to the device once; a batch is an index operation there."""

    def __init__(self, store: PixelStore, device: torch.device) -> None:
        self.device = device
        self._images = torch.empty(store.images.shape, dtype=torch.uint8, device=device)
        for first in range(0, len(store.images), UPLOAD_IMAGES):
            part = np.array(store.images[first : first + UPLOAD_IMAGES])
            self._images[first : first + UPLOAD_IMAGES] = torch.from_numpy(part)
        self.close = store.close

    def stream(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        """See `PixelSource`."""
        # The order goes over once: a small copy per batch would make the host wait for the device.
        for chunk in torch.split(torch.tensor(order, device=self.device), batch_size):
            yield self._images[chunk]


class StreamedPixels:
    """Copied to a CUDA device batch by batch, each while the device works on the one before.

    Two pinned buffers take turns; the copies run on a stream of their own.
    """

    def __init__(self, images: HostImages, device: torch.device) -> None:
        self.device = device
        self._images = images
        self.close = images.close
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def stream(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        """See `PixelSource`."""
        for pixels, copied in one_ahead(self._uploads(order, batch_size)):
            consumer = torch.cuda.current_stream(self.device)
            consumer.wait_event(copied)
            pixels.record_stream(consumer)  # memory of one stream, used on another
            yield pixels

    def _uploads(
        self, order: NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[Tensor, torch.cuda.Event]]:
        shape = (batch_size, self._images.size, self._images.size, 3)
        buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        emptied: list[torch.cuda.Event | None] = [None, None]
        chunks = _chunks(order, batch_size)
        for number, gathered in enumerate(self._images.batches(chunks)):
            buffer = buffers[number % 2][: len(gathered)]
            if (last := emptied[number % 2]) is not None:
                last.synchronize()
            buffer.numpy()[...] = gathered
            with torch.cuda.stream(self._copies):
                pixels = buffer.to(self.device, non_blocking=True)
                copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
                copied.record(self._copies)
            emptied[number % 2] = copied
            yield pixels, copied


def open_pixels(
    images: HostImages, device: torch.device, *, resident: bool | None = None
) -> PixelSource:
    """Choose the source for a device.

    `resident`: whether to keep all pixels of a store on the device. None: on CUDA if they take at
    most a quarter of its free memory, elsewhere not. One source serves all sides of a fold.
    """
    if isinstance(images, PixelStore):
        if resident is None:
            resident = device.type == "cuda" and fits(images, torch.cuda.mem_get_info(device)[0])
        if resident:
            return ResidentPixels(images, device)
    return (StreamedPixels if device.type == "cuda" else HostPixels)(images, device)


def fits(store: PixelStore, free_bytes: int) -> bool:
    """Whether the store may be resident where `free_bytes` are free."""
    return store.images.nbytes <= RESIDENT_SHARE * free_bytes


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the same items, each after its successor was made."""
    iterator = iter(items)
    waiting = list(islice(iterator, 1))
    for following in iterator:
        yield waiting.pop()
        waiting.append(following)
    yield from waiting


def _chunks(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(order), size):
        yield order[first : first + size]
