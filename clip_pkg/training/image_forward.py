"""The image side of a training step: pixels → embeddings, and the loss's gradient back from there.

Legend: B images of a batch, H side of an image in pixels, D embedding size, R ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from clip_pkg.models.image_encoder import ImageEncoder
from clip_pkg.models.precision import Precision
from clip_pkg.training.batch_norm import (
    batch_norms,
    computed_again,
    counted_as_one_batch,
    not_counted,
)
from clip_pkg.training.ranks import ALONE, Ranks

SEEDS = 2**62  # to choose from


class EmbedsImages(Protocol):
    """A model with an image encoder, such as `ImageTextModel`."""

    @property
    def image_encoder(self) -> ImageEncoder:
        """What embeds."""
        ...

    @property
    def image_projection(self) -> nn.Module:
        """What brings its features into the space of the embeddings."""
        ...

    def image_embeddings(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, H] → embeddings, float32 [B, D]."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All of them."""
        ...

    def train(self, mode: bool = ...) -> nn.Module:
        """Enter training mode, or leave it."""
        ...


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings of a batch, float32 [B, D], and how a loss made of them reaches all parameters.

    backward: adds the gradients of a scalar to `.grad` of everything that it depends on; once.
    """

    embeddings: Tensor
    backward: Callable[[Tensor], None]


class ImageSide(Protocol):
    """Embeds the images [B, 3, H, H] of a training batch, or a frozen encoder's features [B, F]."""

    def __call__(self, images: Tensor) -> Embedded:
        """Embed them, in training mode."""
        ...


@dataclass(frozen=True, eq=False)
class WholeBatch:
    """One forward pass of the whole batch."""

    model: EmbedsImages
    precision: Precision

    def __call__(self, images: Tensor) -> Embedded:
        """See `ImageSide`."""
        with self.precision.autocast():
            embeddings = self.model.image_embeddings(images)

        def backward(loss: Tensor) -> None:
            with computed_again(repeated_norms(self.model)):
                loss.backward()  # type: ignore[no-untyped-call]

        return Embedded(embeddings, backward)


def repeated_norms(model: EmbedsImages) -> tuple[_BatchNorm, ...]:
    """Layers with batch statistics that the backward pass computes again."""
    return batch_norms(model.image_encoder) if model.image_encoder.recomputes else ()


class Tower(nn.Module):
    """Image encoder and projection of a model as a module of their own."""

    def __init__(self, model: EmbedsImages) -> None:
        super().__init__()
        self.encoder = model.image_encoder
        self.projection = model.image_projection
        self._embed = model.image_embeddings

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, H] → embeddings [B, D]."""
        return self._embed(images)


@dataclass(frozen=True, eq=False)
class Part:
    """Images `first` … `last` − 1 of a batch, computed with the random numbers of `seed`.

    One without images stands in where a rank has none left: all have to take part in the exchange
    of gradients. It is computed from the first images, and counts for batch statistics only.
    """

    batch: Tensor
    first: int
    last: int
    seed: int

    @property
    def images(self) -> Tensor:
        """What goes through the encoder."""
        return self.batch[self.first : self.last] if self.first < self.last else self.batch[:2]

    def rows_of(self, values: Tensor) -> Tensor:
        """Its rows of something that the whole batch has, [B, …]."""
        return values[self.first : self.last]


class Parts:
    """A batch cut up over the ranks and over time; exact for every loss, contrastive ones too.

    Every rank knows the whole batch and embeds its parts of it; the embeddings are exchanged, every
    rank computes the loss of the whole batch, and carries its gradient on through its own parts.

    With several parts per rank this is gradient caching (Gao et al. 2021, arXiv:2101.06983,
    section 3.2): the parts are embedded without a graph first, and a second time for the gradient.
    Both passes over a part draw the same random numbers, so that dropout drops the same. Batch
    normalisation uses the statistics of a part (on GPUs, of the parts that the ranks embed at the
    same time); what it remembers changes in the first pass only.

    Args:
        model: in training mode.
        objective: has parameters, perhaps, like the model's text side. Every rank has their whole
            gradient; its mean over the ranks keeps rounding from making them different.
        precision: of the encoder.
        most: images that all ranks together may hold at a time; None for a whole batch.
        ranks: who computes.
    """

    def __init__(
        self,
        model: EmbedsImages,
        objective: nn.Module,
        precision: Precision,
        *,
        most: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._tower = Tower(model)
        self._precision = precision
        self._most = most
        self._ranks = ranks
        exchanged = set(self._tower.parameters())
        trained = (p for p in (*model.parameters(), *objective.parameters()) if p.requires_grad)
        self._others = [parameter for parameter in trained if parameter not in exchanged]
        self._norms = batch_norms(model.image_encoder)
        self._repeated = repeated_norms(model)
        self._own_norms = [n for n in self._norms if not isinstance(n, nn.SyncBatchNorm)]
        self._exchanging: nn.Module = self._tower
        if ranks.are_several:
            device = next(model.parameters()).device
            self._exchanging = DistributedDataParallel(
                self._tower,
                device_ids=[device] if device.type == "cuda" else None,
                find_unused_parameters=True,  # some encoders have some that no image reaches
            )
            # Batch statistics have a way of their own, see `_level`. As an argument this is
            # deprecated in new versions of torch, and what takes its place is not in old ones.
            self._exchanging.broadcast_buffers = False

    def __call__(self, images: Tensor) -> Embedded:
        """See `ImageSide`."""
        dealt = deal(
            len(images), self._most, ranks=self._ranks.size, smallest=2 if self._own_norms else 1
        )
        mine = dealt[self._ranks.rank]
        lengths = [sum(last - first for first, last in of_rank) for of_rank in dealt]
        # One number for all ranks, whose generators are in step; each part has its own from there.
        seed = int(torch.randint(SEEDS, ())) + self._ranks.rank * len(mine)
        parts = [Part(images, first, last, seed + n) for n, (first, last) in enumerate(mine)]
        if len(parts) == 1:
            graph = self._embed(parts[0], self._exchanging)
            local = graph.detach()
        else:
            graph = None
            with torch.no_grad(), counted_as_one_batch(self._norms, len(parts)):
                local = torch.cat([self._embed(part, self._tower) for part in parts])
        embeddings = self._ranks.gathered(local, lengths).requires_grad_()

        def backward(loss: Tensor) -> None:
            loss.backward()  # type: ignore[no-untyped-call]
            assert embeddings.grad is not None, "the loss looks at the images"
            # DistributedDataParallel makes means over the ranks of what is to be a sum.
            gradient = embeddings.grad * self._ranks.size
            if graph is not None:
                with computed_again(self._repeated):
                    graph.backward(parts[0].rows_of(gradient))  # type: ignore[no-untyped-call]
            else:
                self._second_pass(parts, gradient)
            self._level()

        return Embedded(embeddings, backward)

    def _second_pass(self, parts: Sequence[Part], gradient: Tensor) -> None:
        """Embed each part again, now with a graph, and carry its gradient on."""
        with not_counted(self._norms):
            for part in parts:
                with nullcontext() if part is parts[-1] else self._without_exchange():
                    embedded = self._embed(part, self._exchanging)
                    embedded.backward(part.rows_of(gradient))  # type: ignore[no-untyped-call]

    def _embed(self, part: Part, tower: nn.Module) -> Tensor:
        """Embed with random numbers of its own; the generators go on as if nothing was drawn."""
        images = part.images
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self._precision.autocast():
            torch.manual_seed(part.seed)
            embeddings: Tensor = tower(images)
        return embeddings[: part.last - part.first]

    def _level(self) -> None:
        """Let neither rounding nor batch statistics make one rank different from another."""
        statistics = (
            value for norm in self._own_norms for value in (norm.running_mean, norm.running_var)
        )
        self._ranks.average([p.grad for p in self._others if p.grad is not None])
        self._ranks.average([value for value in statistics if value is not None])

    def _without_exchange(self) -> AbstractContextManager[None]:
        """Gradients are added up where they are; the last part's backward pass exchanges them."""
        tower = self._exchanging
        return tower.no_sync() if isinstance(tower, DistributedDataParallel) else nullcontext()


def deal(
    images: int, most: int | None, *, ranks: int, smallest: int
) -> list[list[tuple[int, int]]]:
    """Cut a batch into consecutive parts (first, last + 1), as many for each of `ranks`.

    As few parts of about equal size as there have to be if all ranks together hold `most` images
    at a time (None: any number). Where that would make parts of less than `smallest` images, there
    are fewer and larger ones; if they do not go round, the last ranks get parts without images.
    """
    wanted = ranks * (1 if most is None else -(-images // most))
    filled = max(1, min(wanted, images // smallest))
    rounds = -(-filled // ranks)
    cuts = [number * images // filled for number in range(filled)]
    cuts += [images] * (ranks * rounds - filled + 1)
    parts = list(pairwise(cuts))
    return [parts[first : first + rounds] for first in range(0, len(parts), rounds)]
