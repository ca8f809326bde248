"""Auxiliary objectives, to be added to a main one: each has one part, named as the objective.

Their weights in the total are the composition's business. Where labels are mixed, those that look
at `targets` see the class with the largest share.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from clip_pkg.config.losses import (
    ArcFaceConfig,
    CenterConfig,
    CosFaceConfig,
    CosineSimConfig,
    TripletConfig,
)
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import arcface, center_mean, cosface, triplet
from clip_pkg.losses.functional.numerics import masked_mean, unit

MarginLoss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class CenterObjective(Objective):
    """Mean squared distance of the unit image features to their class's learned centre.

    `center_mean` (Wen et al. 2016, equation 2, without ½ and as a mean); on the sphere, because
    that is where features are compared, and there it cannot be won by shrinking them.
    """

    def __init__(self, num_classes: int, embed_dim: int, lr_scale: float = 100.0) -> None:
        super().__init__({"center": 1.0})
        self.centers = nn.Parameter(unit(torch.randn(num_classes, embed_dim)))
        self.lr_scale = lr_scale

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        centers = self.centers.to(inputs.image_features.dtype)
        loss = center_mean(inputs.image_features, centers, inputs.targets, inputs.mask)
        return self.weighted_sum({"center": loss})


class TripletObjective(Objective):
    """Triplets of unit image features found in the batch (Hermans et al. 2017, equations 5 and 6).

    `batch_hard`: mean over all anchors; `batch_all`: mean over the triplets that cost anything.
    """

    def __init__(self, config: TripletConfig) -> None:
        super().__init__({"triplet": 1.0})
        self.config = config

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        mining = self.config.mining
        loss = triplet(
            inputs.image_features,
            inputs.targets,
            inputs.mask,
            margin=self.config.margin,
            mining=mining,
            reduction="mean_over_all" if mining == "batch_hard" else "mean_over_nonzero",
        )
        return self.weighted_sum({"triplet": loss})


class MarginObjective(Objective):
    """Softmax over learned class vectors, with a margin for the own class.

    Part: the name that is given.

    Args:
        part: name.
        loss: (image features [B, D], class vectors [C, D], targets [B], mask [B]) → scalar.
        num_classes: C.
        embed_dim: D.
    """

    def __init__(self, part: str, loss: MarginLoss, num_classes: int, embed_dim: int) -> None:
        super().__init__({part: 1.0})
        self.part = part
        self.loss = loss
        self.class_vectors = nn.Parameter(torch.empty(num_classes, embed_dim))
        nn.init.xavier_uniform_(self.class_vectors)

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        vectors = self.class_vectors.to(inputs.image_features.dtype)
        loss = self.loss(inputs.image_features, vectors, inputs.targets, inputs.mask)
        return self.weighted_sum({self.part: loss})


class CosineSimObjective(Objective):
    """Mean of 1 − cosine of each image and its class's text; with soft labels, of its classes'."""

    def __init__(self) -> None:
        super().__init__({"cosine_sim": 1.0})

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        cosines = inputs.class_cosines()
        if inputs.soft_targets is None:
            own = cosines.gather(1, inputs.targets[:, None])[:, 0]
        else:
            own = (inputs.soft_targets.to(cosines.dtype) * cosines).sum(dim=1)
        return self.weighted_sum({"cosine_sim": masked_mean(1 - own, inputs.mask)})


def build_center(config: CenterConfig, training_set: TrainingSet) -> CenterObjective:
    """Make the objective; it owns its centres."""
    return CenterObjective(training_set.num_classes, training_set.embed_dim, config.lr_scale)


def build_triplet(config: TripletConfig, training_set: TrainingSet) -> TripletObjective:
    """Make the objective; it has no state."""
    del training_set
    return TripletObjective(config)


def build_arcface(config: ArcFaceConfig, training_set: TrainingSet) -> MarginObjective:
    """Make `arcface` (Deng et al. 2019, equation 3); it owns its class vectors."""
    loss = partial(arcface, margin_radians=config.margin, scale=config.scale)
    return MarginObjective("arcface", loss, training_set.num_classes, training_set.embed_dim)


def build_cosface(config: CosFaceConfig, training_set: TrainingSet) -> MarginObjective:
    """Make `cosface` (Wang et al. 2018, equation 4); it owns its class vectors."""
    loss = partial(cosface, margin=config.margin, scale=config.scale)
    return MarginObjective("cosface", loss, training_set.num_classes, training_set.embed_dim)


def build_cosine_sim(config: CosineSimConfig, training_set: TrainingSet) -> CosineSimObjective:
    """Make the objective; it has no state."""
    del config, training_set
    return CosineSimObjective()
