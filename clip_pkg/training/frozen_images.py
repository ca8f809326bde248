"""Features of a frozen image encoder: computed once per fold where no epoch sees other images.

A step then trains projections and classifiers on rows of a table. What the encoder would answer in
every epoch is what it answers once: it is in evaluation mode, and nothing varies an image.

Legend: N images of the manifest, M that a fold looks at, B images of a batch, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_pkg.data.batches import EvalBatches
from clip_pkg.data.pixel_sources import RESIDENT_SHARE
from clip_pkg.training.image_forward import WholeBatch
from clip_pkg.training.setup import EvalSide, FoldSetup, images_stand_still

HOST_BYTES = 2**30  # that features may take on a CPU; on a GPU it is a share of what is free
BYTES_PER_NUMBER = 4


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """A `PixelSource` whose batches are features [B, F] in the place of pixels.

    table: [M, F], on the device. rows: int64 [N], the row of each image of the manifest.
    """

    table: Tensor
    rows: NDArray[np.int64]

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.table.device

    def stream(self, order: NDArray[np.int64], batch_size: int) -> Iterator[Tensor]:
        """Features of the images at the positions `order`, in runs of `batch_size`."""
        rows = torch.tensor(self.rows[order], device=self.device)
        for chunk in torch.split(rows, batch_size):
            yield self.table[chunk]

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class Unchanged:
    """`Views` of images that are features already."""

    img_size: int

    def train(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """Features [B, F] as they are."""
        return images

    def evaluate(self, images: Tensor) -> Tensor:
        """Features [B, F] as they are."""
        return images


def keeps_features(setup: FoldSetup) -> bool:
    """Whether a fold computes them once: they stand still, and fit beside what else there is.

    A fold whose batches are cut up, over ranks or over time, is short of something else, and one
    that compiles its encoder was told to run it.
    """
    device, encoder = setup.device, setup.model.image_encoder
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    most = RESIDENT_SHARE * free if device.type == "cuda" else HOST_BYTES
    return (
        images_stand_still(setup.config, setup.augmentation)
        and isinstance(setup.image_side, WholeBatch)
        and not encoder.is_compiled
        and len(_looked_at(setup)) * encoder.num_features * BYTES_PER_NUMBER <= most
    )


def feature_batches(setup: FoldSetup) -> EvalBatches:
    """All images that the fold looks at again and again, each once, in batches of evaluation."""
    return EvalBatches(
        setup.pixels,
        setup.manifest.labels,
        _looked_at(setup),
        batch_size=setup.config.batch_size,
        augmentation=setup.augmentation,
    )


def with_features(setup: FoldSetup, on_step: Callable[[int], None]) -> FoldSetup:
    """Return the same fold, with batches of features; its model takes them as it takes images.

    on_step: called after each of `feature_batches` with the number done. The features are in the
    precision in which the encoder gives them, so that what follows is the same.
    """
    batches, model = feature_batches(setup), setup.model
    index, features = [], []
    with torch.no_grad(), setup.precision.autocast():
        for done, batch in enumerate(batches, start=1):
            features.append(model.image_encoder(batch.images))
            index.append(batch.index)
            on_step(done)
    table, positions = torch.cat(features), torch.cat(index).cpu().numpy()
    rows = np.full(len(setup.manifest.labels), -1)
    rows[positions] = np.arange(len(positions))
    source, views = FeatureRows(table, rows), Unchanged(setup.config.img_size)

    def side(side: EvalSide) -> EvalSide:
        return replace(side, batches=side.batches.of(source, views))

    return replace(
        setup,
        train=setup.train.of(source, views),
        val=side(setup.val),
        inner=None if setup.inner is None else side(setup.inner),
    )


def _looked_at(setup: FoldSetup) -> NDArray[np.int64]:
    inner = [] if setup.inner is None else [setup.inner.batches.indices]
    return np.unique(np.concatenate([setup.train_indices, setup.val.batches.indices, *inner]))
