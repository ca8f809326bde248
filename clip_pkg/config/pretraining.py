"""The `pretrain` block of a config: self-supervised training of an image encoder before the folds.

Pre-training uses two augmented views of each image; only the loss `supcon` uses labels.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clip_pkg.config.loss_blocks import NonNegative, Positive, StrictModel
from clip_pkg.config.two_view_losses import AnyPretrainLoss, NtXentConfig

MAX_WHOLE_IMAGE = 64  # px


class ProjectionConfig(StrictModel):
    """Network between encoder and loss, discarded afterwards: linear layers, batch norms, ReLUs."""

    layers: int = Field(2, ge=1, le=8, description="Linear layers.")
    hidden: int = Field(512, ge=1, le=65536, description="Width of the hidden layers.")
    dim: int = Field(
        128, ge=2, le=65536, description="Size of the output, which the loss compares."
    )


class _OptimizerConfig(StrictModel):
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
    momentum: NonNegative = Field(0.9, lt=1, description="Share of the last step that is kept.")


class LarsConfig(_OptimizerConfig):
    """LARS, for batches of thousands of images: a rate per layer from the norm of its weights."""

    type: Literal["lars"] = "lars"
    learning_rate: Positive = Field(
        0.3, le=1000, description="Peak of the schedule for 256 images; grows with the batch."
    )
    weight_decay: NonNegative = Field(
        1e-6, le=1, description="On matrices and kernels; not on norms and biases."
    )
    momentum: NonNegative = Field(0.9, lt=1, description="Share of the last step that is kept.")


class QueueConfig(StrictModel):
    """MoCo: a slow copy of the encoder computes the second views; earlier ones are negatives."""

    size: int = Field(4096, ge=1, le=1_048_576, description="Number of earlier second views.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.99, description="Share of the slow copy that each step keeps."
    )


class PretrainConfig(StrictModel):
    """Self-supervised training of the image encoder, before and apart from the folds."""

    loss: AnyPretrainLoss = Field(
        default_factory=NtXentConfig, description='`{"type": …}` and its parameters.'
    )
    images: str = Field(
        "train_fold",
        min_length=1,
        description=(
            "`train_fold`: the training images of the fold. `all`: all images, with the pixels of "
            "validation images but never their labels; one pre-training serves all folds, and the "
            "summary states it. Or a folder of images without labels, sub-folders included."
        ),
    )
    epochs: int = Field(200, ge=1, le=1_000_000, description="Passes over the images.")
    batch_size: int = Field(256, ge=2, le=1_048_576, description="Images per step, two views each.")
    micro_batch_size: int | None = Field(
        None,
        ge=2,
        le=1_048_576,
        description=(
            "Images that pass through the encoder at once, if a whole batch does not fit into "
            "memory; the loss still uses the whole batch. null: the whole batch."
        ),
    )
    augmentation: Literal["simclr", "standard"] = Field(
        "simclr",
        description=(
            "Augmentation of each view. `simclr`: crops of any size, flips, colour, grey, blur. "
            "`standard`: as in training."
        ),
    )
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="Smallest share of an image's area in a crop of `simclr`."
    )
    projection: ProjectionConfig = Field(
        default_factory=ProjectionConfig, description="Network between encoder and loss."
    )
    optimizer: Annotated[AdamWConfig | SgdConfig | LarsConfig, Field(discriminator="type")] = Field(
        default_factory=AdamWConfig, description='`{"type": …}` and its parameters.'
    )
    grad_clip_norm: Positive | None = Field(
        None, description="Maximum gradient norm over encoder and projection; null: no clipping."
    )
    queue: QueueConfig | None = Field(
        None, description="Negatives from earlier batches, for `info_nce`; null: none."
    )
    probe_every: int = Field(
        10,
        ge=1,
        description=(
            "Epochs between evaluations of the features with the images' labels (nearest "
            "neighbours, linear classifier), if there are labels; the last epoch always has one."
        ),
    )

    def stored_as(self, img_size: int) -> Literal["none", "standard"]:
        """Augmentation whose stored images the views are cropped from.

        Crops of large images benefit from stored images larger than the encoder's input; images
        of up to 64 px would have to be enlarged.
        """
        whole = self.augmentation == "simclr" and img_size <= MAX_WHOLE_IMAGE
        return "none" if whole else "standard"

    @property
    def folder(self) -> str | None:
        """Folder of images without labels, if `images` names one."""
        return None if self.images in ("train_fold", "all") else self.images

    @property
    def is_per_fold(self) -> bool:
        """Whether each fold has its own pre-training."""
        return self.images == "train_fold"
