"""What the losses are measured on.

Legend: B batch, D embedding size, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.losses.contract import LossInputs

TEMPERATURE = 0.07  # where `scale` stands
IMAGES_PER_LABEL = 4  # as in samplers for metric learning
MEMORY_BANK = 4096


@dataclass(frozen=True)
class Batch:
    """What both sides of a pair get; all vectors have length 1, float tensors are leaves.

    images: [B, D]. others: [B, D], second views or texts of the images. labels: [B], each
    `IMAGES_PER_LABEL` times. class_vectors: [C, D]; targets: [B] in 0…C−1. negatives:
    [MEMORY_BANK, D], without gradient. scale, bias: scalars.
    """

    images: Tensor
    others: Tensor
    labels: Tensor
    class_vectors: Tensor
    targets: Tensor
    negatives: Tensor
    scale: Tensor
    bias: Tensor

    @property
    def size(self) -> int:
        """B."""
        return len(self.images)

    @property
    def texts(self) -> Tensor:
        """Text of each image where texts are its class's, [B, D]."""
        return self.class_vectors[self.targets]

    def inputs(self, *, normalize: bool) -> LossInputs:
        """What an objective gets; peers that normalise make it part of our side, too."""
        unit = partial(F.normalize, dim=1) if normalize else _as_it_is
        return LossInputs(
            unit(self.images), unit(self.class_vectors), self.targets, self.scale, self.images
        )


def make_batch(
    size: int,
    dim: int,
    classes: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    distinct: bool = False,
) -> Batch:
    """Draw a batch, always the same one; with `distinct` (B ≤ C) all targets differ."""
    # Peers that keep class vectors as [D, C] are recognised by the shape.
    assert dim != classes
    generator = torch.Generator().manual_seed(0)

    def vectors(count: int) -> Tensor:
        drawn = torch.randn(count, dim, generator=generator, dtype=torch.float64)
        return F.normalize(drawn, dim=1)

    def leaf(values: Tensor) -> Tensor:
        return values.to(device, dtype).requires_grad_()

    images = vectors(size)
    others = F.normalize(images + vectors(size), dim=1)
    permuted = torch.randperm(size, generator=generator)
    targets = torch.randint(classes, (size,), generator=generator)
    if distinct:
        targets = torch.randperm(classes, generator=generator)[:size]
    return Batch(
        leaf(images),
        leaf(others),
        (permuted // IMAGES_PER_LABEL).to(device),
        leaf(vectors(classes)),
        targets.to(device),
        vectors(MEMORY_BANK).to(device, dtype),
        leaf(torch.tensor(1 / TEMPERATURE, dtype=torch.float64)),
        leaf(torch.tensor(-10.0)),
    )


def _as_it_is(values: Tensor) -> Tensor:
    return values
