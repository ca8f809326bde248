"""Auxiliary objectives, added to a main one with a weight: each has one term, named as its type.

With mixed labels, `targets` are the classes with the largest share.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from clip_pkg.config.auxiliary_losses import (
    ArcFaceConfig,
    CenterConfig,
    CosFaceConfig,
    CosineSimConfig,
    TripletConfig,
)
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import arcface, center_mean, cosface, triplet
from clip_pkg.losses.functional.numerics import masked_mean, unit


class CenterObjective(Objective):
    """Mean squared distance of the unit image features to their class's learned centre.

    `center_mean` (Wen et al. 2016, equation 2, without ½ and as a mean). Features are compared on
    the unit sphere, where the loss cannot be lowered by shrinking them.
    """

    def __init__(self, config: CenterConfig, training_set: TrainingSet) -> None:
        super().__init__({"center": 1.0})
        centers = torch.randn(training_set.num_classes, training_set.embed_dim)
        self.centers = nn.Parameter(unit(centers))
        self.lr_scale = config.lr_scale

    def forward(self, inputs: LossInputs) -> LossOutput:
        centers = self.centers.to(inputs.image_features.dtype)
        loss = center_mean(inputs.image_features, centers, inputs.targets, inputs.mask)
        return self.weighted_sum({"center": loss})


class TripletObjective(Objective):
    """Triplets of unit image features found in the batch (Hermans et al. 2017, equations 5 and 6).

    `batch_hard`: mean over all anchors; `batch_all`: mean over the triplets with a positive loss.
    """

    def __init__(self, config: TripletConfig, _training_set: TrainingSet) -> None:
        super().__init__({"triplet": 1.0})
        self.config = config

    def forward(self, inputs: LossInputs) -> LossOutput:
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


class _MarginObjective(Objective):
    """Softmax over learned class vectors, with a margin for the image's own class."""

    function: ClassVar[Callable[..., Tensor]]
    margin_name: ClassVar[str]

    def __init__(self, config: ArcFaceConfig | CosFaceConfig, training_set: TrainingSet) -> None:
        super().__init__({config.type: 1.0})
        vectors = torch.empty(training_set.num_classes, training_set.embed_dim)
        self.class_vectors = nn.Parameter(vectors)
        nn.init.xavier_uniform_(self.class_vectors)
        self.config = config

    def forward(self, inputs: LossInputs) -> LossOutput:
        images, settings = inputs.image_features, {self.margin_name: self.config.margin}
        vectors = self.class_vectors.to(images.dtype)
        loss = type(self).function(
            images, vectors, inputs.targets, inputs.mask, scale=self.config.scale, **settings
        )
        return self.weighted_sum({self.config.type: loss})


class ArcFaceObjective(_MarginObjective):
    """Margin on the angle (Deng et al. 2019, equation 3)."""

    function = staticmethod(arcface)
    margin_name = "margin_radians"


class CosFaceObjective(_MarginObjective):
    """Margin on the cosine (Wang et al. 2018, equation 4)."""

    function = staticmethod(cosface)
    margin_name = "margin"


class CosineSimObjective(Objective):
    """Mean of 1 − cosine of each image and its class's text; with soft labels, of its classes'."""

    def __init__(self, _config: CosineSimConfig, _training_set: TrainingSet) -> None:
        super().__init__({"cosine_sim": 1.0})

    def forward(self, inputs: LossInputs) -> LossOutput:
        cosines = inputs.class_cosines
        if inputs.soft_targets is None:
            own = cosines.gather(1, inputs.targets[:, None])[:, 0]
        else:
            own = (inputs.soft_targets.to(cosines.dtype) * cosines).sum(dim=1)
        return self.weighted_sum({"cosine_sim": masked_mean(1 - own, inputs.mask)})
