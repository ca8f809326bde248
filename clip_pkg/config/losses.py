"""The `loss` block of a config: one class per kind, joined in a discriminated union.

A parameter that the chosen kind does not have is an error, because every class forbids extras.
The kinds here and the rows of `clip_pkg.losses.registry` agree; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from clip_pkg.config.loss_blocks import (
    FOCUS,
    ClassifierConfig,
    ClassWeighting,
    FocalConfig,
    LossConfig,
    NonNegative,
    Positive,
    ProxyConfig,
    SoftTargets,
    Temperature,
    WeightMethod,
    members,
)

__all__ = [
    "BceLossConfig",
    "CeInfoNceLossConfig",
    "CeLossConfig",
    "ClipLossConfig",
    "CombinedLossConfig",
    "FocalConfig",
    "FocalLossConfig",
    "InfoNceLossConfig",
    "MainLossConfig",
    "ProxyLossConfig",
    "SigLipLossConfig",
    "SupConLossConfig",
    "SuperClipLossConfig",
    "SuperClipTokensLossConfig",
    "WeightMethod",
    "loss_classes",
]


class ClipLossConfig(LossConfig):
    """Symmetric image–text contrastive loss over the batch."""

    smallest_batch: ClassVar[int] = 2

    type: Literal["clip"] = "clip"
    positives: Literal["same_class", "diagonal"] = Field(
        "same_class",
        description=(
            "Which pairs of a batch match: an image and the texts of all images of its class, or "
            "only its own. Every image of a class has the same text in a step, and then both give "
            "the same value and gradient."
        ),
    )


class SuperClipLossConfig(LossConfig):
    """Classification over image–class-text logits plus the CLIP loss, each with a weight."""

    smallest_batch: ClassVar[int] = 2
    soft_targets: ClassVar[SoftTargets] = "warn"
    hard_part: ClassVar[str] = "its contrastive part"
    part_weights: ClassVar[tuple[str, ...]] = ("class_loss_weight", "contrastive_loss_weight")

    type: Literal["superclip"] = "superclip"
    class_loss_weight: NonNegative = Field(1.0, description="Weight of the classification part.")
    contrastive_loss_weight: NonNegative = Field(1.0, description="Weight of the CLIP part.")
    positives: Literal["same_class", "diagonal"] = Field("same_class", description="As for `clip`.")
    class_weighting: ClassWeighting = Field(
        "auto",
        description=(
            "Class weights of the classification part, from the training fold's counts. `auto` "
            "takes the config's `weight_method`."
        ),
    )
    focal: FocalConfig | None = Field(None, description="Use the focal form of the class loss.")


class SuperClipTokensLossConfig(LossConfig):
    """SuperCLIP as published: each image also predicts the tokens of its text."""

    smallest_batch: ClassVar[int] = 2
    needs_tokens: ClassVar[bool] = True

    type: Literal["superclip_tokens"] = "superclip_tokens"
    class_loss_weight: NonNegative = Field(
        1.0, description="Weight of the classification over tokens."
    )
    contrastive_loss_weight: Positive = Field(
        1.0, description="Weight of the CLIP part, which learns to predict the class."
    )


class SigLipLossConfig(LossConfig):
    """Sigmoid loss: every image and text of a batch is a yes-or-no question of its own."""

    smallest_batch: ClassVar[int] = 2

    type: Literal["siglip"] = "siglip"
    initial_bias: Annotated[float, Field(ge=-1000, le=1000)] = Field(
        -10.0, description="Start of the learned bias on the scaled cosines."
    )


class SupConLossConfig(LossConfig):
    """Supervised contrastive loss over the images of a batch and the class texts."""

    smallest_batch: ClassVar[int] = 2

    type: Literal["supcon"] = "supcon"
    temperature: Temperature = Field(
        0.1, title="Loss Temperature", description="Of the cosines, in training and prediction."
    )


class CeLossConfig(ClassifierConfig):
    """Cross-entropy over the classes."""

    soft_targets: ClassVar[SoftTargets] = "yes"

    type: Literal["ce"] = "ce"


class FocalLossConfig(ClassifierConfig):
    """Cross-entropy over the classes in which hard examples weigh more."""

    soft_targets: ClassVar[SoftTargets] = "yes"

    type: Literal["focal"] = "focal"
    gamma: NonNegative = Field(FOCUS, description="Focusing power; 0 is plain cross-entropy.")
    alpha: Positive | None = Field(None, description="Constant factor on the loss.")


class CeInfoNceLossConfig(ClassifierConfig):
    """Cross-entropy plus an InfoNCE loss of image features against class texts."""

    soft_targets: ClassVar[SoftTargets] = "warn"
    hard_part: ClassVar[str] = "its InfoNCE part"

    type: Literal["ce_infonce"] = "ce_infonce"
    contrast_weight: NonNegative = Field(
        0.5, description="Weight of the InfoNCE part; the cross-entropy has 1."
    )
    infonce_temp: Temperature = Field(0.07, description="Temperature of the InfoNCE part.")

    @property
    def needs_text(self) -> bool:
        """Its InfoNCE part does, whatever the classifier."""
        return True


class ProxyLossConfig(ProxyConfig):
    """Proxy-Anchor loss: one learned point per class; the nearest one is the prediction."""

    type: Literal["proxy"] = "proxy"


class CombinedLossConfig(ClassifierConfig, ProxyConfig):
    """λ · cross-entropy + (1 − λ) · Proxy-Anchor loss."""

    soft_targets: ClassVar[SoftTargets] = "warn"
    hard_part: ClassVar[str] = "its proxy part"
    shares: ClassVar[tuple[str, ...]] = ("lambda_combined",)

    type: Literal["combined"] = "combined"
    lambda_combined: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        title="λ (lambda)",
        description="λ: share of the cross-entropy. At 0 the nearest proxy is the prediction.",
    )

    @property
    def needs_text(self) -> bool:
        """Only where the texts classify."""
        return self.classifier == "text"


class _PairLossConfig(LossConfig):
    """Settings of the losses of one positive text per image against negatives."""

    smallest_batch: ClassVar[int] = 2

    temperature: Temperature = Field(
        0.2, title="Loss Temperature", description="Of the cosines, in training and prediction."
    )
    num_negatives: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        None,
        description=(
            "Texts drawn from all classes in each step, as negatives of the images of other "
            "classes. null: the texts of the batch's other classes."
        ),
    )


class InfoNceLossConfig(_PairLossConfig):
    """Each image picks its class's text among negatives."""

    type: Literal["infonce"] = "infonce"


class BceLossConfig(_PairLossConfig):
    """Binary cross-entropy on the pairs of `infonce`, as its baseline."""

    type: Literal["bce"] = "bce"


MainLossConfig: TypeAlias = Annotated[
    ClipLossConfig
    | SuperClipLossConfig
    | SuperClipTokensLossConfig
    | SigLipLossConfig
    | SupConLossConfig
    | CeLossConfig
    | FocalLossConfig
    | CeInfoNceLossConfig
    | ProxyLossConfig
    | CombinedLossConfig
    | InfoNceLossConfig
    | BceLossConfig,
    Field(discriminator="type"),
]


@cache
def loss_classes() -> Mapping[str, type[LossConfig]]:
    """Loss blocks by their `type`, in the order of the union."""
    return members(MainLossConfig)


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
