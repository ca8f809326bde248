"""The image side of a training step: pixels → embeddings, and the loss's gradient back from there.

Legend: B images of a batch, H side of an image in pixels, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from clip_pkg.engine.batch_norm import batch_norms, counted_as_one_batch, not_counted
from clip_pkg.model import ImageTextModel
from clip_pkg.precision import Precision

SEEDS = 2**62  # to choose from


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings of a batch, float32 [B, D], and how a loss made of them reaches all parameters.

    backward: adds the gradients of a scalar to `.grad` of everything that it depends on; once.
    """

    embeddings: Tensor
    backward: Callable[[Tensor], None]


class ImageSide(Protocol):
    """Embeds the images [B, 3, H, H] of a training batch."""

    def __call__(self, images: Tensor) -> Embedded:
        """Embed them, in training mode."""
        ...


@dataclass(frozen=True, eq=False)
class WholeBatch:
    """One forward pass of the whole batch."""

    model: ImageTextModel
    precision: Precision

    def __call__(self, images: Tensor) -> Embedded:
        """See `ImageSide`."""
        with self.precision.autocast():
            return Embedded(self.model.image_embeddings(images), Tensor.backward)


class MicroBatches:
    """At most `size` images in memory at once; exact for every loss, contrastive ones included.

    Gradient caching (Gao et al. 2021, arXiv:2101.06983, section 3.2): the parts are embedded
    without a graph, the loss sees the embeddings of the whole batch, and its gradient with respect
    to these is carried on while each part is embedded a second time. Both passes over a part draw
    the same random numbers, so that dropout drops the same. Batch normalisation uses the
    statistics of a part; what it remembers changes in the first pass only.
    """

    def __init__(self, model: ImageTextModel, precision: Precision, size: int) -> None:
        self._model = model
        self._precision = precision
        self._norms = batch_norms(model.image_encoder)
        self._size = size

    def __call__(self, images: Tensor) -> Embedded:
        """See `ImageSide`."""
        sizes = part_sizes(len(images), self._size, smallest=self._smallest)
        parts = torch.split(images, sizes)
        seed = int(torch.randint(SEEDS, ()))
        with torch.no_grad(), counted_as_one_batch(self._norms, len(parts)):
            embeddings = torch.cat(
                [self._embed(part, seed + number) for number, part in enumerate(parts)]
            )
        embeddings.requires_grad_()

        def backward(loss: Tensor) -> None:
            loss.backward()  # type: ignore[no-untyped-call]
            assert embeddings.grad is not None, "the loss looks at the images"
            gradients = torch.split(embeddings.grad, sizes)
            with not_counted(self._norms):
                for number, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
                    self._embed(part, seed + number).backward(gradient)  # type: ignore[no-untyped-call]

        return Embedded(embeddings, backward)

    @property
    def _smallest(self) -> int:
        """One image has no variance to normalise by."""
        return 2 if self._norms else 1

    def _embed(self, part: Tensor, seed: int) -> Tensor:
        """Embed with random numbers of its own; the generators go on as if nothing was drawn."""
        devices = [part.device] if part.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self._precision.autocast():
            torch.manual_seed(seed)
            return self._model.image_embeddings(part)


def part_sizes(images: int, most: int, *, smallest: int) -> list[int]:
    """Cut a batch into as few parts of about equal size as `most` allows.

    Where that would leave parts of less than `smallest` images, there are fewer and larger ones.
    """
    parts = max(1, min(-(-images // most), images // smallest))
    return [(number + 1) * images // parts - number * images // parts for number in range(parts)]
