"""The `pretrain` block of a config: what an image encoder learns from before the folds train it.

Pre-training looks at images alone, two augmented views of each; labels play no part, but for
`supcon`. The kinds of its loss and the rows of `clip_pkg.losses.two_views` agree; a test compares
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from clip_pkg.config.loss_blocks import NonNegative, Positive, Temperature, members

LARGEST_WHOLE_IMAGE = 64  # px


class PretrainLossConfig(BaseModel):
    """What all losses between two views share.

    smallest_batch: images below which the loss teaches nothing. uses_labels: whether it knows the
    classes of the images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    smallest_batch: ClassVar[int] = 2
    uses_labels: ClassVar[bool] = False

    type: str

    def settings(self) -> dict[str, Any]:
        """Name → value of what acts on this loss, in the order of the class."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "type"}


class InfoNceViewsConfig(PretrainLossConfig):
    """Each first view picks its second view among those of the batch."""

    type: Literal["info_nce"] = "info_nce"
    temperature: Temperature = Field(0.1, description="Of the cosines.")


class NtXentConfig(PretrainLossConfig):
    """SimCLR: each view picks its partner among all other views of the batch."""

    type: Literal["nt_xent"] = "nt_xent"
    temperature: Temperature = Field(0.5, description="Of the cosines.")


class DclConfig(PretrainLossConfig):
    """Decoupled: the positive is no part of the denominator; seen from the first view."""

    type: Literal["dcl"] = "dcl"
    temperature: Temperature = Field(0.1, description="Of the cosines.")


class DclSymmetricConfig(PretrainLossConfig):
    """`dcl`, mean over both directions."""

    type: Literal["dcl_symmetric"] = "dcl_symmetric"
    temperature: Temperature = Field(0.1, description="Of the cosines.")


class DclwConfig(PretrainLossConfig):
    """`dcl_symmetric` in which pairs that are far apart weigh more."""

    type: Literal["dclw"] = "dclw"
    temperature: Temperature = Field(0.1, description="Of the cosines.")
    sigma: Positive = Field(0.5, le=100, description="σ of the von Mises–Fisher weights.")


class DhelConfig(PretrainLossConfig):
    """Decoupled hyperspherical energy: alignment across views, uniformity within each."""

    type: Literal["dhel"] = "dhel"
    temperature: Temperature = Field(0.3, description="τ, of the cosines.")
    include_augs: bool = Field(
        False, description="Count the uniformity of the second views as well."
    )


class KclConfig(PretrainLossConfig):
    """Kernel contrastive loss with a Gaussian kernel."""

    type: Literal["kcl"] = "kcl"
    t: Positive = Field(2.0, le=1000, description="Of the kernel e^(−t·‖x − y‖²).")
    gamma: NonNegative = Field(16.0, le=1_000_000, description="Weight of the uniformity.")


class VicregConfig(PretrainLossConfig):
    """Views alike, dimensions with variance and without correlation; no negatives."""

    type: Literal["vicreg"] = "vicreg"
    invariance_weight: NonNegative = Field(25.0, description="λ.")
    variance_weight: NonNegative = Field(25.0, description="μ.")
    covariance_weight: NonNegative = Field(1.0, description="ν.")

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if not any(self.settings().values()):
            raise PydanticCustomError(
                "nothing_counts",
                "{names} are all 0, so there is nothing to learn",
                {"key": "invariance_weight", "names": ", ".join(self.settings())},
            )
        return self


class SupConViewsConfig(PretrainLossConfig):
    """Supervised contrastive: all views of one class are alike. The only one that knows labels."""

    uses_labels: ClassVar[bool] = True

    type: Literal["supcon"] = "supcon"
    temperature: Temperature = Field(0.1, description="Of the cosines.")


AnyPretrainLoss: TypeAlias = Annotated[
    InfoNceViewsConfig
    | NtXentConfig
    | DclConfig
    | DclSymmetricConfig
    | DclwConfig
    | DhelConfig
    | KclConfig
    | VicregConfig
    | SupConViewsConfig,
    Field(discriminator="type"),
]


@cache
def pretrain_loss_classes() -> Mapping[str, type[PretrainLossConfig]]:
    """Loss blocks by their `type`, in the order of the union."""
    return members(AnyPretrainLoss)


class ProjectionConfig(BaseModel):
    """The network between encoder and loss; it is not kept: linear layers, batch norms, ReLUs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    layers: int = Field(2, ge=1, le=8, description="Linear layers.")
    hidden: int = Field(512, ge=1, le=65536, description="Width between them.")
    dim: int = Field(128, ge=2, le=65536, description="Size of what the loss compares.")


class _OptimizerConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    warmup_epochs: NonNegative = Field(
        10.0, description="Linear warm-up, then a cosine; at most a tenth of all epochs."
    )


class AdamWConfig(_OptimizerConfig):
    """AdamW, the choice for batches of up to about a thousand images."""

    type: Literal["adamw"] = "adamw"
    learning_rate: Positive = Field(1e-3, le=100, description="Peak of the schedule.")
    weight_decay: NonNegative = Field(
        1e-4, le=1, description="On matrices and kernels; not on norms and biases."
    )


class SgdConfig(_OptimizerConfig):
    """SGD with momentum."""

    type: Literal["sgd"] = "sgd"
    learning_rate: Positive = Field(0.06, le=100, description="Peak of the schedule.")
    weight_decay: NonNegative = Field(
        5e-4, le=1, description="On matrices and kernels; not on norms and biases."
    )
    momentum: NonNegative = Field(0.9, lt=1, description="Share of the last step that goes on.")


class LarsConfig(_OptimizerConfig):
    """LARS, for batches of thousands of images: a rate per layer from the norm of its weights."""

    type: Literal["lars"] = "lars"
    learning_rate: Positive = Field(
        0.3, le=1000, description="Peak of the schedule for 256 images; grows with the batch."
    )
    weight_decay: NonNegative = Field(
        1e-6, le=1, description="On matrices and kernels; not on norms and biases."
    )
    momentum: NonNegative = Field(0.9, lt=1, description="Share of the last step that goes on.")


class QueueConfig(BaseModel):
    """MoCo: second views come from a slow copy of the encoder, and old ones stay as negatives."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: int = Field(4096, ge=1, le=1_048_576, description="Second views that are remembered.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.99, description="Share of the slow copy that stays as it is in each step."
    )


class PretrainConfig(BaseModel):
    """Self-supervised training of the image encoder, before and apart from the folds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    loss: AnyPretrainLoss = Field(
        default_factory=NtXentConfig, description='`{"type": …}` and its parameters.'
    )
    images: str = Field(
        "train_fold",
        min_length=1,
        description=(
            "`train_fold`: those that the fold trains on. `all`: the pixels of validation images "
            "too, never their labels; one pre-training serves all folds, and the summary says so. "
            "Or a folder, with or without sub-folders, of images without labels."
        ),
    )
    epochs: int = Field(200, ge=1, le=1_000_000, description="Passes over the images.")
    batch_size: int = Field(256, ge=2, le=1_048_576, description="Images per step, two views each.")
    micro_batch_size: int | None = Field(
        None,
        ge=2,
        le=1_048_576,
        description=(
            "Images that are in the encoder at once, where a batch does not fit into the memory; "
            "the negatives are of the whole batch all the same. null: all."
        ),
    )
    augmentation: Literal["simclr", "standard"] = Field(
        "simclr",
        description=(
            "Of each view. `simclr`: crops of any size, flips, colour, grey, blur. `standard`: as "
            "in training."
        ),
    )
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="Smallest share of an image's area that a crop of `simclr` shows."
    )
    projection: ProjectionConfig = Field(
        default_factory=ProjectionConfig, description="Network between encoder and loss."
    )
    optimizer: Annotated[AdamWConfig | SgdConfig | LarsConfig, Field(discriminator="type")] = Field(
        default_factory=AdamWConfig, description='`{"type": …}` and its parameters.'
    )
    grad_clip_norm: Positive | None = Field(
        None, description="Largest gradient norm over encoder and projection; null for none."
    )
    queue: QueueConfig | None = Field(
        None, description="Negatives from earlier batches, for `info_nce`; null: none."
    )
    probe_every: int = Field(
        10,
        ge=1,
        description=(
            "Epochs between two looks at the features with the images' labels (nearest neighbours, "
            "linear classifier), where there are labels; the last epoch always has one."
        ),
    )

    def stored_as(self, img_size: int) -> Literal["none", "standard"]:
        """Augmentation whose stored squares the views are cut from.

        Crops of large images gain by stored squares that are larger than what the encoder sees;
        images as small as 64 px would be enlarged for it.
        """
        whole = self.augmentation == "simclr" and img_size <= LARGEST_WHOLE_IMAGE
        return "none" if whole else "standard"

    @property
    def folder(self) -> str | None:
        """Folder of images without labels, where that is what `images` names."""
        return None if self.images in ("train_fold", "all") else self.images

    @property
    def is_per_fold(self) -> bool:
        """Whether each fold has a pre-training of its own."""
        return self.images == "train_fold"
