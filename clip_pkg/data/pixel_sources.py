"""Sources of pixel batches: resident on the device, streamed to it, or in host memory.

The host reads them from a pixel store or, if none fits, from an `ImageDecoder`.

Legend: N images of the manifest, B images of a batch, S width and height of stored squares, pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_pkg.data.image_decoder import ImageDecoder
from clip_pkg.data.pixel_store import PixelStore

RESIDENT_SHARE = 0.25  # maximum share of the device's free memory for resident pixels
UPLOAD_IMAGES = 1024  # images copied at once, to bound host memory

Item = TypeVar("Item")
HostImages: TypeAlias = PixelStore | ImageDecoder  # pixels of all N images in host memory


def _batches(
    images: HostImages, order: NDArray[np.int64], batch_size: int
) -> Iterator[NDArray[np.uint8]]:
    starts = range(0, len(order), batch_size)
    return images.batches(order[first : first + batch_size] for first in starts)


class PixelSource(Protocol):
    """Batches of pixels on one device."""

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        ...

    def stream(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        """Images at positions `order`, in batches of `batch_size`: uint8 [B, S, S, 3] each."""
        ...

    def close(self) -> None:
        """Release files and processes."""
        ...


class HostPixels:
    """Reads each batch from host memory when it is requested.

    No thread reads ahead: 32 images of 256×256 pixels take about 6 ms from the page cache, their
    checksums included, a training step on a CPU at least a second.
    """

    def __init__(self, images: HostImages, device: torch.device) -> None:
        self.device = device
        self._images = images
        self.close = images.close

    def stream(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        for pixels in _batches(self._images, order, batch_size):
            yield torch.from_numpy(pixels).to(self.device)


class ResidentPixels:
    """Copies the whole store to the device once; a batch is an index operation there."""

    def __init__(self, store: PixelStore, device: torch.device) -> None:
        self.device = device
        shape = (len(store), store.size, store.size, 3)
        self._images = torch.empty(shape, dtype=torch.uint8, device=device)
        filled = 0
        for images in _batches(store, np.arange(len(store)), UPLOAD_IMAGES):
            self._images[filled : filled + len(images)] = torch.from_numpy(images)
            filled += len(images)
        self.close = store.close

    def stream(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        # One copy of the order: a small copy per batch would make the host wait for the device.
        for chunk in torch.split(torch.tensor(order, device=self.device), batch_size):
            yield self._images[chunk]


class StreamedPixels:
    """Copies batches to a CUDA device, each while the device processes the previous one.

    Alternates between two pinned buffers; the copies run on a separate stream.
    """

    def __init__(self, images: HostImages, device: torch.device) -> None:
        self.device = device
        self._images = images
        self.close = images.close
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def stream(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        for pixels, copied in one_ahead(self._uploads(order, batch_size)):
            consumer = torch.cuda.current_stream(self.device)
            consumer.wait_event(copied)
            pixels.record_stream(consumer)  # allocated on one stream, used on another
            yield pixels

    def _uploads(
        self, order: NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[Tensor, torch.cuda.Event]]:
        shape = (batch_size, self._images.size, self._images.size, 3)
        buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        emptied: list[torch.cuda.Event | None] = [None, None]
        for number, gathered in enumerate(_batches(self._images, order, batch_size)):
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
    """Choose the source for a device; one source serves training and validation.

    resident: whether to keep all pixels of a store on the device. None: only on CUDA, and if they
    take at most a quarter of its free memory.
    """
    if isinstance(images, PixelStore):
        if resident is None:
            resident = device.type == "cuda" and (
                len(images) * images.size**2 * 3
                <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
            )
        if resident:
            return ResidentPixels(images, device)
    return (StreamedPixels if device.type == "cuda" else HostPixels)(images, device)


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the same items, each after the next one has been created."""
    iterator = iter(items)
    waiting = list(islice(iterator, 1))
    for following in iterator:
        yield waiting.pop()
        waiting.append(following)
    yield from waiting
