"""One loss of ours and the same of somebody else, on one batch, with one set of weights.

Legend: B batch, D embedding size, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import lightly.loss
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from pytorch_metric_learning import losses, miners, reducers
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor, nn

from benchmarks.loss_batch import TEMPERATURE, Batch
from clip_pkg.config.auxiliary_losses import CosineSimConfig
from clip_pkg.config.loss_blocks import LossConfig
from clip_pkg.config.losses import (
    CeLossConfig,
    ClipLossConfig,
    SigLipLossConfig,
    SupConLossConfig,
)
from clip_pkg.losses import functional
from clip_pkg.losses.contract import Objective, TrainingSet
from clip_pkg.losses.registry import builder

MARGIN = 0.2

Loss = Callable[[], Tensor]


@dataclass(frozen=True)
class Side:
    """A loss of one batch, and what gets a gradient: in the order of the other side."""

    loss: Loss
    leaves: tuple[Tensor, ...]

    def step(self) -> Tensor:
        """Forward and backward."""
        self.forget()
        value = self.loss()
        value.backward()
        return value.detach()

    def forget(self) -> None:
        """Let go of the gradients of the last step."""
        for leaf in self.leaves:
            leaf.grad = None


Sides = tuple[Side, Side]  # ours, the peer's


def _sides(ours: Loss, peer: Loss, *leaves: Tensor) -> Sides:
    return Side(ours, leaves), Side(peer, leaves)


def between(ours: Callable[..., Tensor], peer: Callable[..., Tensor], batch: Batch) -> Sides:
    """Losses of two views."""
    a, b = batch.images, batch.others
    return _sides(lambda: ours(a, b), lambda: peer(a, b), a, b)


def labelled(ours: Callable[..., Tensor], peer: Callable[..., Tensor], batch: Batch) -> Sides:
    """Losses of one batch with labels."""
    x, y = batch.images, batch.labels
    return _sides(lambda: ours(x, y), lambda: peer(x, y), x)


def with_class_vectors(
    ours: Callable[[Tensor, Tensor, Tensor], Tensor],
    peer: Callable[[int, int], nn.Module],
    batch: Batch,
) -> Sides:
    """Losses of one batch and a vector per class, which the peer owns."""
    x, vectors, y = batch.images, batch.class_vectors, batch.targets
    return Side(lambda: ours(x, vectors, y), (x, vectors)), _owning(peer, batch)


def _owning(peer: Callable[[int, int], nn.Module], batch: Batch) -> Side:
    """Side of a peer that has class vectors, as rows or as columns; it is given the batch's."""
    x, vectors, y = batch.images, batch.class_vectors.detach(), batch.targets
    module = peer(*vectors.shape).to(x)
    (weight,) = module.parameters()
    same = vectors if weight.shape == vectors.shape else vectors.T
    weight.data = same.clone(memory_format=torch.contiguous_format)
    return Side(lambda: module(x, y), (x, weight))


def clip(batch: Batch) -> Sides:
    """Features as they are: both sides leave the normalising to the model."""
    given = (batch.images, batch.others, batch.scale)
    ours = partial(functional.clip, *given, normalize_inputs=False)
    return _sides(ours, partial(ClipLoss(), *given), *given)


def siglip(batch: Batch) -> Sides:
    """Features as they are, as for `clip`; bias −10."""
    given = (batch.images, batch.others, batch.scale, batch.bias)
    ours = partial(functional.siglip, *given, normalize_inputs=False)
    return _sides(ours, partial(SigLipLoss(), *given), *given)


def _total(objective: Objective, batch: Batch, *, normalize: bool = False) -> Tensor:
    total: Tensor = objective(batch.inputs(normalize=normalize)).total
    return total


def _objective(config: LossConfig, batch: Batch) -> Objective:
    classes, dim = batch.class_vectors.shape
    objective: Objective = builder(config)(config, TrainingSet(torch.ones(classes), dim))
    return objective


def clip_objective(batch: Batch) -> Sides:
    """One text per class: ours from [B, C] logits, the peer from [B, B]."""
    objective, peer = _objective(ClipLossConfig(), batch), ClipLoss()
    return _sides(
        lambda: _total(objective, batch),
        lambda: peer(batch.images, batch.texts, batch.scale),
        *(batch.images, batch.class_vectors, batch.scale),
    )


def siglip_objective(batch: Batch) -> Sides:
    """As `clip_objective`; the objective owns its bias."""
    config, peer = SigLipLossConfig(initial_bias=float(batch.bias.detach())), SigLipLoss()
    objective = _objective(config, batch).to(batch.bias)
    leaves = (batch.images, batch.class_vectors, batch.scale)
    return (
        Side(lambda: _total(objective, batch), (*leaves, objective.bias)),
        Side(
            lambda: peer(batch.images, batch.texts, batch.scale, batch.bias),
            (*leaves, batch.bias),
        ),
    )


def supcon_objective(batch: Batch) -> Sides:
    """Images and the C class texts in one batch."""
    objective = _objective(SupConLossConfig(temperature=TEMPERATURE), batch)
    peer = losses.SupConLoss(TEMPERATURE)
    x, texts = batch.images, batch.class_vectors
    labels = torch.cat([batch.targets, torch.arange(len(texts), device=x.device)])
    return _sides(
        lambda: _total(objective, batch), lambda: peer(torch.cat([x, texts]), labels), x, texts
    )


def ce_objective(batch: Batch) -> Sides:
    """Softmax over cosines to one vector per class, at one temperature."""
    objective = _objective(CeLossConfig(), batch)
    leaves = (batch.images, batch.class_vectors)
    return (
        Side(lambda: _total(objective, batch, normalize=True), leaves),
        _owning(_softmax(), batch),
    )


def cosine_sim_objective(batch: Batch) -> Sides:
    """1 − cosine of each image and its class's text."""
    objective = _objective(CosineSimConfig(), batch)
    peer = lightly.loss.NegativeCosineSimilarity()
    return _sides(
        lambda: _total(objective, batch, normalize=True),
        lambda: 1 + peer(batch.images, batch.texts),
        *(batch.images, batch.class_vectors),
    )


def weighted_cross_entropy(batch: Batch) -> Sides:
    """As `ce_objective`, with a weight per class and a mean over B."""
    weights = torch.linspace(0.5, 2.0, len(batch.class_vectors)).to(batch.images)

    def ours(x: Tensor, vectors: Tensor, y: Tensor) -> Tensor:
        logits = F.normalize(x) @ F.normalize(vectors).T / TEMPERATURE
        return functional.weighted_cross_entropy(
            logits, y, weights, reduction="sum_over_batch_size"
        )

    peer = _softmax(reducer=reducers.ClassWeightedReducer(weights))
    return with_class_vectors(ours, peer, batch)


def _softmax(**settings: Any) -> Callable[[int, int], nn.Module]:
    return partial(losses.NormalizedSoftmaxLoss, temperature=TEMPERATURE, **settings)


def multi_positive_clip(batch: Batch) -> Sides:
    """The peer has one direction, and is called for both."""
    peer = losses.SupConLoss(TEMPERATURE, reducer=reducers.MeanReducer())
    labels, again = batch.labels, batch.labels.clone()  # the same object would leave out i = j

    def both_ways(images: Tensor, texts: Tensor) -> Tensor:
        to_text = peer(images, labels, ref_emb=texts, ref_labels=again)
        return 0.5 * (to_text + peer(texts, labels, ref_emb=images, ref_labels=again))

    def ours(images: Tensor, texts: Tensor) -> Tensor:
        return functional.multi_positive_clip(images, texts, labels, 1 / TEMPERATURE)

    return between(ours, both_ways, batch)


def npairs(batch: Batch) -> Sides:
    """`info_nce` at temperature 1; the peer finds the pairs by their labels."""
    peer = losses.NPairsLoss()
    labels = torch.arange(batch.size, device=batch.images.device).repeat(2)
    return between(
        partial(functional.info_nce, temperature=1.0),
        lambda a, b: peer(torch.cat([a, b]), labels),
        batch,
    )


def memory_bank(batch: Batch) -> Sides:
    """Negatives from before; the peer keeps them itself."""
    peer = lightly.loss.NTXentLoss(TEMPERATURE, memory_bank_size=tuple(batch.negatives.shape))
    peer.memory_bank.bank = batch.negatives.clone()  # after every use, it adds the batch to them

    def ours(a: Tensor, b: Tensor) -> Tensor:
        return functional.info_nce_sampled_negatives(a, b, batch.negatives, temperature=TEMPERATURE)

    return between(ours, peer, batch)


def triplet(
    mining: Literal["batch_hard", "batch_all"], *, swap: bool = False, soft_margin: bool = False
) -> Callable[[Batch], Sides]:
    """Triplets found by labels; the peer has a miner for the hard ones."""
    is_hard = mining == "batch_hard"
    reducer = reducers.MeanReducer() if is_hard else reducers.AvgNonZeroReducer()
    loss = losses.TripletMarginLoss(MARGIN, swap, soft_margin, reducer=reducer)
    miner = miners.BatchHardMiner() if is_hard else None
    ours = partial(
        functional.triplet,
        margin=MARGIN,
        mining=mining,
        reduction="mean_over_all" if is_hard else "mean_over_nonzero",
        swap=swap,
        soft_margin=soft_margin,
    )
    return partial(labelled, ours, lambda x, y: loss(x, y, miner(x, y) if miner else None))


def triplet_explicit(batch: Batch) -> Sides:
    """The peer is given which rows are a triplet; ε = 0, since it has none."""
    anchor, positive = batch.images, batch.others
    negative = positive.detach().roll(1, 0).requires_grad_()
    one_each = torch.arange(batch.size, device=anchor.device)
    triplets = (one_each, one_each, one_each + batch.size)
    peer = losses.TripletMarginLoss(
        margin=1.0,
        distance=LpDistance(normalize_embeddings=False),
        reducer=reducers.MeanReducer(),
    )
    return _sides(
        lambda: functional.triplet_explicit(anchor, positive, negative, eps=0.0),
        lambda: peer(anchor, None, triplets, ref_emb=torch.cat([positive, negative])),
        *(anchor, positive, negative),
    )
