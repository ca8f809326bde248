"""Features of a frozen image encoder, computed once where every epoch sees the same images.

A step then trains projections and classifiers on rows of a table. The encoder would compute the
same features in every epoch: it is in evaluation mode, and images are not augmented.

Legend: N images of the manifest, M of the fold, B images of a batch, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import Augmentation
from clip_pkg.data.pixel_sources import RESIDENT_SHARE

HOST_BYTES = 2**30  # that features may take on a CPU; on a GPU it is a share of the free memory
BYTES_PER_NUMBER = 4


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """A `PixelSource` whose batches are features [B, F].

    table: [M, F], on the device, in the precision in which the encoder returns them. rows: int64
    [N], the row of each image of the manifest.
    """

    table: Tensor
    rows: NDArray[np.int64]

    @property
    def device(self) -> torch.device:
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
    """`InputTransform` that returns features [B, F] unchanged."""

    img_size: int

    def train(self, images: Tensor, uniforms: Tensor) -> Tensor:
        return images

    def evaluate(self, images: Tensor) -> Tensor:
        return images


def sees_the_same_images(config: RunConfig, augmentation: Augmentation) -> bool:
    """Whether a frozen encoder would see exactly the same images in every epoch."""
    mixes = config.mixup_alpha > 0 or config.cutmix_alpha > 0
    return config.freeze_image_encoder and not augmentation.varies and not mixes


def features_fit(images: int, num_features: int, device: torch.device) -> bool:
    """Whether a table of features fits beside everything else."""
    limit: float = HOST_BYTES
    if device.type == "cuda":
        limit = RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
    return images * num_features * BYTES_PER_NUMBER <= limit
