"""The `pretrain` block of a config: self-supervised training of an image encoder before the folds.

Pre-training uses two augmented views of each image; only the loss `supcon` uses labels.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from clip_pkg.config.loss_blocks import NonNegative, Positive
from clip_pkg.config.two_view_losses import AnyPretrainLoss, NtXentConfig

MAX_WHOLE_IMAGE = 64  # px


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
        whole = self.augmentation == "simclr" and img_size <= MAX_WHOLE_IMAGE
        return "none" if whole else "standard"

    @property
    def folder(self) -> str | None:
        """Folder of images without labels, where that is what `images` names."""
        return None if self.images in ("train_fold", "all") else self.images

    @property
    def is_per_fold(self) -> bool:
        """Whether each fold has a pre-training of its own."""
        return self.images == "train_fold"
