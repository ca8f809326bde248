"""Image forward pass of a training step: pixels → embeddings, and the gradient of a loss back.

Legend: B images of a batch, H image height and width in pixels, D embedding size, R ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from clip_pkg.models.image_encoder import ImageEncoder
from clip_pkg.models.precision import Precision
from clip_pkg.training.batch_norm import (
    batch_norms,
    counted_as_one_batch,
    not_counted,
    restored_afterwards,
)
from clip_pkg.training.ranks import ALONE, Ranks

MAX_SEED = 2**62

# Adds the gradients of a scalar loss to `.grad` of everything it depends on; call it once.
Backward: TypeAlias = Callable[[Tensor], None]
# Images [B, 3, H, H], or a frozen encoder's features [B, F] → embeddings, float32 [B, D], and the
# backward pass from a loss of these to all parameters. The model is in training mode.
Embed: TypeAlias = Callable[[Tensor], tuple[Tensor, Backward]]


class EmbedsImages(Protocol):
    """A model with an image encoder: `ImageTextModel`, `ViewsModel`."""

    @property
    def image_encoder(self) -> ImageEncoder: ...

    @property
    def image_projection(self) -> nn.Module: ...

    def image_embeddings(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, H] → embeddings, float32 [B, D]."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def train(self, mode: bool = ...) -> nn.Module: ...


@dataclass(frozen=True, eq=False)
class WholeBatch:
    """`Embed` in one forward pass."""

    model: EmbedsImages
    precision: Precision

    def __call__(self, images: Tensor) -> tuple[Tensor, Backward]:
        with self.precision.autocast():
            embeddings = self.model.image_embeddings(images)

        def backward(loss: Tensor) -> None:
            with restored_afterwards(recomputed_norms(self.model)):
                loss.backward()  # type: ignore[no-untyped-call]

        return embeddings, backward


def recomputed_norms(model: EmbedsImages) -> tuple[_BatchNorm, ...]:
    """Batch norms whose forward pass is repeated by activation checkpointing."""
    return batch_norms(model.image_encoder) if model.image_encoder.recomputes else ()


class Tower(nn.Module):
    """Image encoder and projection of a model as one module."""

    def __init__(self, model: EmbedsImages) -> None:
        super().__init__()
        self.encoder = model.image_encoder
        self.projection = model.image_projection
        self._embed = model.image_embeddings

    def forward(self, images: Tensor) -> Tensor:
        return self._embed(images)


class MicroBatches:
    """`Embed` in micro-batches, over the ranks and over time; exact for every loss.

    Every rank has the whole batch and embeds its micro-batches; the embeddings are exchanged, every
    rank computes the loss of the whole batch and propagates its gradient through its own images.

    With several micro-batches per rank this is gradient caching (Gao et al. 2021,
    arXiv:2101.06983, section 3.2): they are embedded first without a graph and again for the
    gradient. Both passes draw the same random numbers, so that dropout drops the same units. Batch
    normalisation uses the statistics of a micro-batch (on GPUs, of those that the ranks embed at
    the same time); running statistics change in the first pass only.

    Args:
        model: in training mode.
        objective: may own parameters. Every rank has the full gradient of these and of the text
            tower; averaging over the ranks keeps rounding from letting them drift apart.
        precision: of the encoder.
        max_images: in the encoder at once on all ranks together; None for the whole batch.
        ranks: the processes that share the batch.
    """

    def __init__(
        self,
        model: EmbedsImages,
        objective: nn.Module,
        precision: Precision,
        *,
        max_images: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._tower = Tower(model)
        self._precision = precision
        self._max_images = max_images
        self._ranks = ranks
        exchanged = set(self._tower.parameters())
        trained = (p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad)
        self._others = [parameter for parameter in trained if parameter not in exchanged]
        self._norms = batch_norms(model.image_encoder)
        self._recomputed = recomputed_norms(model)
        self._own_norms = [n for n in self._norms if not isinstance(n, nn.SyncBatchNorm)]
        self._exchanging: nn.Module = self._tower
        if ranks.are_several:
            device = next(model.parameters()).device
            self._exchanging = DistributedDataParallel(
                self._tower,
                device_ids=[device] if device.type == "cuda" else None,
                find_unused_parameters=True,  # some encoders have some that no image reaches
            )
            # Batch statistics are averaged by `backward`. As an argument this is deprecated in new
            # versions of torch, and its replacement is missing in old ones.
            self._exchanging.broadcast_buffers = False

    def __call__(self, images: Tensor) -> tuple[Tensor, Backward]:
        bounds = micro_batch_bounds(
            len(images),
            self._max_images,
            ranks=self._ranks.size,
            smallest=2 if self._own_norms else 1,
        )
        mine = bounds[self._ranks.rank]
        lengths = [sum(last - first for first, last in of_rank) for of_rank in bounds]
        # One number for all ranks, whose generators are in step; each micro-batch adds to it.
        seed = int(torch.randint(MAX_SEED, ())) + self._ranks.rank * len(mine)

        def embed(number: int, tower: nn.Module) -> Tensor:
            """Embed a micro-batch with its own random numbers; leaves the generators unchanged."""
            first, last = mine[number]
            # A rank without images must take part in the exchange of gradients: it embeds the first
            # images, which affects batch statistics only.
            part = images[first:last] if first < last else images[:2]
            devices = [images.device] if images.device.type == "cuda" else []
            with torch.random.fork_rng(devices), self._precision.autocast():
                torch.manual_seed(seed + number)
                embedded: Tensor = tower(part)
            return embedded[: last - first]

        graph = None
        if len(mine) == 1:
            graph = embed(0, self._exchanging)
            local = graph.detach()
        else:
            with torch.no_grad(), counted_as_one_batch(self._norms, len(mine)):
                local = torch.cat([embed(number, self._tower) for number in range(len(mine))])
        embeddings = self._ranks.gathered(local, lengths).requires_grad_()

        def backward(loss: Tensor) -> None:
            loss.backward()  # type: ignore[no-untyped-call]
            assert embeddings.grad is not None, "the loss does not depend on the images"
            # DistributedDataParallel averages over the ranks; the sum is needed.
            gradient = embeddings.grad * self._ranks.size
            if graph is not None:
                first, last = mine[0]
                with restored_afterwards(self._recomputed):
                    graph.backward(gradient[first:last])  # type: ignore[no-untyped-call]
            else:
                # Each micro-batch is embedded again, now with a graph. Gradients add up locally
                # until the last backward pass, which exchanges them.
                with not_counted(self._norms):
                    for number, (first, last) in enumerate(mine):
                        is_last = number == len(mine) - 1
                        with nullcontext() if is_last else self._without_exchange():
                            embedded = embed(number, self._exchanging)
                            embedded.backward(gradient[first:last])  # type: ignore[no-untyped-call]
            # Average gradients and batch statistics, so that the ranks stay identical.
            self._ranks.average([p.grad for p in self._others if p.grad is not None])
            statistics = [
                v for norm in self._own_norms for v in (norm.running_mean, norm.running_var)
            ]
            self._ranks.average([value for value in statistics if value is not None])

        return embeddings, backward

    def _without_exchange(self) -> AbstractContextManager[None]:
        tower = self._exchanging
        return tower.no_sync() if isinstance(tower, DistributedDataParallel) else nullcontext()


def micro_batch_bounds(
    images: int, max_images: int | None, *, ranks: int, smallest: int
) -> list[list[tuple[int, int]]]:
    """Cut a batch into consecutive micro-batches (first, last + 1), as many for each of `ranks`.

    There are as few as possible, of about equal size, such that all ranks together hold at most
    `max_images` at a time (None: no limit). Where that would make micro-batches of less than
    `smallest` images, there are fewer and larger ones; if these do not suffice for all ranks, the
    last ranks get empty ones.
    """
    wanted = ranks * (1 if max_images is None else -(-images // max_images))
    filled = max(1, min(wanted, images // smallest))
    rounds = -(-filled // ranks)
    cuts = [number * images // filled for number in range(filled)]
    cuts += [images] * (ranks * rounds - filled + 1)
    bounds = list(pairwise(cuts))
    return [bounds[first : first + rounds] for first in range(0, len(bounds), rounds)]


def micro_batch_sizes(images: int, max_images: int | None) -> frozenset[int]:
    """Numbers of images that one process embeds at once."""
    ((*bounds,),) = micro_batch_bounds(images, max_images, ranks=1, smallest=2)
    return frozenset(last - first for first, last in bounds)
