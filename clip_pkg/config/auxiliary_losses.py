"""The blocks of `aux_losses`: one class per auxiliary loss, see `loss_blocks`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from clip_pkg.config.loss_blocks import (
    LossConfig,
    NonNegative,
    Positive,
    SoftTargets,
    TermLabel,
    TextUse,
    members,
)


class AuxConfig(LossConfig):
    """What all auxiliary losses share; each has one term, named as its type."""

    uses_texts: ClassVar[TextUse] = "never"
    soft_targets: ClassVar[SoftTargets] = "warn"

    type: str
    weight: NonNegative = Field(0.1, description="Weight in the total; the main loss has 1.")


class CenterConfig(AuxConfig):
    """Pull images to a learned centre of their class."""

    builder = "auxiliary:CenterObjective"
    terms = (TermLabel("center", "Center", "center"),)
    source = "Wen et al. 2016, ECCV, equation 2"
    wording = "a center loss (Wen et al. 2016)"

    type: Literal["center"] = "center"
    lr_scale: Positive = Field(
        100.0, le=1_000_000, description="Factor on the learning rate of the centres."
    )


class TripletConfig(AuxConfig):
    """Images of one class nearer to each other than to others, by a margin."""

    builder = "auxiliary:TripletObjective"
    terms = (TermLabel("triplet", "Triplet", "triplet"),)
    source = "Hermans et al. 2017, arXiv:1703.07737, equations 5 and 6"
    wording = "a triplet loss (Hermans et al. 2017)"
    smallest_batch = 3

    type: Literal["triplet"] = "triplet"
    margin: Positive = Field(0.2, le=2, description="Margin on the distance of unit vectors.")
    mining: Literal["batch_hard", "batch_all"] = Field(
        "batch_hard",
        description=(
            "`batch_hard`: each image with its farthest positive and nearest negative. "
            "`batch_all`: all triplets that violate the margin."
        ),
    )


class ArcFaceConfig(AuxConfig):
    """Softmax over learned class vectors with a margin on the angle."""

    builder = "auxiliary:ArcFaceObjective"
    terms = (TermLabel("arcface", "ArcFace", "arcface"),)
    source = "Deng et al. 2019, arXiv:1801.07698, equation 3"
    wording = "an ArcFace loss (Deng et al. 2019)"

    type: Literal["arcface"] = "arcface"
    scale: Positive = Field(64.0, le=1000, description="Factor on the cosines.")
    margin: Annotated[float, Field(ge=0, le=3)] = Field(0.5, description="Margin in radians.")


class CosFaceConfig(AuxConfig):
    """Softmax over learned class vectors with a margin on the cosine."""

    builder = "auxiliary:CosFaceObjective"
    terms = (TermLabel("cosface", "CosFace", "cosface"),)
    source = "Wang et al. 2018, arXiv:1801.09414, equation 4"
    wording = "a CosFace loss (Wang et al. 2018)"

    type: Literal["cosface"] = "cosface"
    scale: Positive = Field(64.0, le=1000, description="Factor on the cosines.")
    margin: NonNegative = Field(
        0.35, le=2, description="Margin on the cosine of the image's class."
    )


class CosineSimConfig(AuxConfig):
    """Pull images to the text of their class."""

    builder = "auxiliary:CosineSimObjective"
    terms = (TermLabel("cosine_sim", "CosineSim", "cos"),)
    source = "1 − cosine, as torch.nn.CosineEmbeddingLoss for matching pairs"
    wording = "a cosine loss between image and class text"
    uses_texts = "always"
    soft_targets = "yes"

    type: Literal["cosine_sim"] = "cosine_sim"


AuxLossConfig: TypeAlias = Annotated[
    CenterConfig | TripletConfig | ArcFaceConfig | CosFaceConfig | CosineSimConfig,
    Field(discriminator="type"),
]

AUXILIARY_LOSSES = members(AuxLossConfig)
