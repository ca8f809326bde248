"""A pixel store in memory, of any pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from clip_pkg.data.pixel_store import PixelStore


class ArrayStore(PixelStore):
    """A store of the images [N, S, S, 3]."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    @property
    def size(self) -> int:
        """S, pixels."""
        return int(self.images.shape[1])

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, chunks: Iterable[NDArray[np.int64]]) -> Iterator[NDArray[np.uint8]]:
        """Copies of the images."""
        return (self.images[chunk] for chunk in chunks)

    def close(self) -> None:
        """There is no file."""


def pixels_of(store: PixelStore) -> NDArray[np.uint8]:
    """All images of a store, [N, S, S, 3]."""
    (pixels,) = store.batches([np.arange(len(store))])
    return pixels
