"""The blocks of `aux_losses`: terms that can be added to any main loss, one class per kind.

The kinds here and the rows of `clip_pkg.losses.table.AUXILIARY` agree; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from clip_pkg.config.loss_blocks import (
    LossConfig,
    NonNegative,
    Positive,
    SoftTargets,
    members,
)


class AuxConfig(LossConfig):
    """What all auxiliary losses share."""

    soft_targets: ClassVar[SoftTargets] = "warn"

    type: str
    weight: NonNegative = Field(0.1, description="Weight in the total; the main loss has 1.")

    @property
    def needs_text(self) -> bool:
        """Most look at images alone."""
        return False


class CenterConfig(AuxConfig):
    """Pull images to a learned centre of their class."""

    type: Literal["center"] = "center"
    lr_scale: Positive = Field(
        100.0, le=1_000_000, description="Factor on the learning rate of the centres."
    )


class TripletConfig(AuxConfig):
    """Images of one class nearer to each other than to others, by a margin."""

    smallest_batch: ClassVar[int] = 3

    type: Literal["triplet"] = "triplet"
    margin: Positive = Field(0.2, le=2, description="On the distance of unit vectors.")
    mining: Literal["batch_hard", "batch_all"] = Field(
        "batch_hard",
        description=(
            "`batch_hard`: each image with its farthest positive and nearest negative. "
            "`batch_all`: all triplets that violate the margin."
        ),
    )


class ArcFaceConfig(AuxConfig):
    """Softmax over learned class vectors with a margin on the angle."""

    type: Literal["arcface"] = "arcface"
    scale: Positive = Field(64.0, le=1000, description="Factor on the cosines.")
    margin: Annotated[float, Field(ge=0, le=3)] = Field(0.5, description="In radians.")


class CosFaceConfig(AuxConfig):
    """Softmax over learned class vectors with a margin on the cosine."""

    type: Literal["cosface"] = "cosface"
    scale: Positive = Field(64.0, le=1000, description="Factor on the cosines.")
    margin: NonNegative = Field(0.35, le=2, description="Taken off the own class's cosine.")


class CosineSimConfig(AuxConfig):
    """Pull images to the text of their class."""

    soft_targets: ClassVar[SoftTargets] = "yes"

    type: Literal["cosine_sim"] = "cosine_sim"

    @property
    def needs_text(self) -> bool:
        """It aligns images with them."""
        return True


AuxLossConfig: TypeAlias = Annotated[
    CenterConfig | TripletConfig | ArcFaceConfig | CosFaceConfig | CosineSimConfig,
    Field(discriminator="type"),
]


@cache
def aux_classes() -> Mapping[str, type[LossConfig]]:
    """Blocks of `aux_losses` by their `type`, in the order of the union."""
    return members(AuxLossConfig)
