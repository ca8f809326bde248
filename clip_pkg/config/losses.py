"""The `loss` block of a config: one class per kind, joined in a discriminated union.

A parameter that the chosen kind does not have is an error, because every class forbids extras.
The kinds here and the rows of `clip_pkg.losses.table` agree; a test compares them.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
WeightMethod: TypeAlias = Literal["inverse_freq", "inverse_sqrt", "balanced", "effective_number"]


class LossConfig(BaseModel):
    """What all loss blocks share: frozen and strict."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClipLossConfig(LossConfig):
    """Symmetric image–text contrastive loss over the batch."""

    type: Literal["clip"] = "clip"
    positives: Literal["same_class", "diagonal"] = Field(
        "same_class",
        description=(
            "Which pairs of a batch match. `same_class`: all images of a class match its text. "
            "`diagonal`: only each image with its own text, so that the same text counts as a "
            "negative for other images of the class."
        ),
    )


class FocalConfig(LossConfig):
    """Focal form of a cross-entropy: hard examples weigh more."""

    gamma: NonNegative = Field(2.0, description="Focusing power; 0 is plain cross-entropy.")
    alpha: Positive | None = Field(None, description="Constant factor on the focal term.")


class SuperClipLossConfig(LossConfig):
    """Classification over image–class-text logits plus the CLIP loss, each with a weight."""

    type: Literal["superclip"] = "superclip"
    class_loss_weight: NonNegative = Field(1.0, description="Weight of the classification part.")
    contrastive_loss_weight: NonNegative = Field(1.0, description="Weight of the CLIP part.")
    positives: Literal["same_class", "diagonal"] = Field("same_class", description="As for `clip`.")
    class_weighting: WeightMethod | Literal["none", "auto"] = Field(
        "auto",
        description=(
            "Class weights of the classification part, from the training fold's counts. `auto` "
            "takes the config's `weight_method`."
        ),
    )
    focal: FocalConfig | None = Field(None, description="Use the focal form of the class loss.")


MainLossConfig: TypeAlias = Annotated[
    ClipLossConfig | SuperClipLossConfig, Field(discriminator="type")
]
