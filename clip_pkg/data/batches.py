"""Batches on the device: training images in random order, augmented; validation images in order.

Legend: N images of the manifest, M images of the fold's split, B images of a batch, H size of the
encoder's inputs, C classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_pkg.data.augmentation import DRAWS, InputTransform
from clip_pkg.data.pixel_sources import PixelSource
from clip_pkg.data.sampling import (
    StreamKey,
    epoch_order,
    occurrences,
    steps_per_epoch,
    uniforms,
)
from clip_pkg.losses.functional.numerics import widest_float

EVALUATION_FACTOR = 4  # evaluation stores no activations for gradients
# Maximum pixels per evaluation batch. On a CPU, only small images benefit from larger batches
# (resnet18, one core, 128 instead of 32: 26 % faster at 32 pixels, slower at 224), and tensors of
# more than 32 MiB are allocated from the system each time.
EVALUATION_PIXELS_CPU = 32 * 224 * 224
EVALUATION_PIXELS = 256 * 224 * 224


@dataclass(frozen=True)
class Batch:
    """One batch, all on the device.

    images: float32 [B, 3, H, H], normalised, or features of a frozen encoder, [B, F].
    targets: int64 [B], classes. index: int64 [B], positions in the manifest.
    """

    images: Tensor
    targets: Tensor
    index: Tensor


class _Batches:
    """Batches of the images at `indices` [M] of a manifest.

    source: pixels of all N images. labels: int64 [N], classes of all images.
    """

    def __init__(
        self,
        source: PixelSource,
        labels: NDArray[np.int64],
        indices: NDArray[np.int64],
        *,
        batch_size: int,
        augmentation: InputTransform,
    ) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self._source = source
        self._labels = labels
        self._augmentation = augmentation

    def of(self, source: PixelSource, augmentation: InputTransform) -> Self:
        """The same batches from another source and augmentation."""
        changed = copy.copy(self)
        changed._source = source
        changed._augmentation = augmentation
        return changed

    def _batches(self, index: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Pixels, targets and manifest positions of each batch, on the device."""
        # One copy to the device per pass: a copy per batch would make the host wait.
        targets = torch.tensor(self._labels[index], device=self._source.device)
        positions = torch.tensor(index, device=self._source.device)
        pixels = self._source.stream(index, self.batch_size)
        size = self.batch_size
        yield from zip(
            pixels, torch.split(targets, size), torch.split(positions, size), strict=True
        )


class TrainBatches(_Batches):
    """Training batches of a fold; each `epoch(number)` is a function of (seed, fold, number).

    weights: float64 [C], sampling weights; None shuffles. Images, crops and flips are the same on
    any device and after any interruption. An image that weighted sampling draws several times in
    an epoch gets new crops and flips each time.
    """

    def __init__(
        self,
        source: PixelSource,
        labels: NDArray[np.int64],
        indices: NDArray[np.int64],
        *,
        batch_size: int,
        augmentation: InputTransform,
        seed: int,
        fold: int,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(source, labels, indices, batch_size=batch_size, augmentation=augmentation)
        self._seed = seed
        self._fold = fold
        self._weights = weights

    def __len__(self) -> int:
        """Batches per epoch."""
        return steps_per_epoch(len(self.indices), self.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Positions into `indices`, in the order of `epoch`; int64 [M] or [M − 1].

        Raises DataError if the fold is too small to train on.
        """
        return epoch_order(
            self._labels[self.indices],
            self._weights,
            seed=self._seed,
            fold=self._fold,
            epoch=epoch,
            batch_size=self.batch_size,
        )

    def epoch(self, number: int) -> Iterator[Batch]:
        """Batches of epoch `number`, which counts from 1."""
        order = self.order(number)
        index = self.indices[order]
        # The n-th view of an image in the epoch has its own random numbers.
        views = index + len(self._labels) * occurrences(order)
        key = StreamKey(self._seed, self._fold, number, "augmentation")
        device = self._source.device
        draws = torch.from_numpy(uniforms(key, views, DRAWS)).to(widest_float(device)).to(device)
        batches = zip(torch.split(draws, self.batch_size), self._batches(index), strict=True)
        for draw, (pixels, targets, positions) in batches:
            yield Batch(self._augmentation.train(pixels, draw), targets, positions)

    def exposure(self, epochs: int) -> NDArray[np.int64]:
        """How often each of the M images was shown in epochs 1 … `epochs`.

        Recomputed from the orders, so that interrupted runs need no saved counter.
        """
        counts = np.zeros(len(self.indices), dtype=np.int64)
        for number in range(1, epochs + 1):
            counts += np.bincount(self.order(number), minlength=len(counts))
        return counts


class EvalBatches(_Batches):
    """Every image of `indices` [M] once, in that order; can be iterated repeatedly.

    batch_size: the training batch size; evaluation batches may be larger. most: maximum size, if
    memory is known to be short.
    """

    def __init__(
        self,
        source: PixelSource,
        labels: NDArray[np.int64],
        indices: NDArray[np.int64],
        *,
        batch_size: int,
        augmentation: InputTransform,
        most: int | None = None,
    ) -> None:
        size = evaluation_batch_size(batch_size, augmentation.img_size, source.device.type)
        size = size if most is None else min(size, most)
        super().__init__(source, labels, indices, batch_size=size, augmentation=augmentation)

    def __len__(self) -> int:
        """Batches of one pass."""
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for pixels, targets, positions in self._batches(self.indices):
            yield Batch(self._augmentation.evaluate(pixels), targets, positions)


def evaluation_batch_size(batch_size: int, img_size: int, device_type: str) -> int:
    """Up to four times the training batch size where that is faster, never less than it."""
    pixels = EVALUATION_PIXELS_CPU if device_type == "cpu" else EVALUATION_PIXELS
    return max(batch_size, min(EVALUATION_FACTOR * batch_size, pixels // img_size**2))
