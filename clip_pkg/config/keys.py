"""Every key of a config: its type, default, range and description; the only place for defaults.

To add a key, add one field to its section and use it. The flag, the JSON Schema, the table in
docs/config.md and the error messages follow from the field. Rules over several keys are in
`rules.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
)

from clip_pkg.base.paths import folder_name
from clip_pkg.config.auxiliary_losses import AuxLossConfig
from clip_pkg.config.encoders import parse_image_encoder, parse_text_encoder, usage
from clip_pkg.config.loss_blocks import NonNegative, Positive, StrictModel, WeightMethod
from clip_pkg.config.losses import ClipLossConfig, MainLossConfig
from clip_pkg.config.pretraining import PretrainConfig
from clip_pkg.metrics.table import Monitor


@dataclass(frozen=True)
class Section:
    """Starts a section of keys in `--help` and docs/config.md; it ends at the next `Section`."""

    title: str


@dataclass(frozen=True)
class NoEffectOnNumbers:
    """Marks a key that never changes a trained number, only a label or how a config runs.

    Folds trained with another value of it are reused.
    """


@dataclass(frozen=True)
class UsedByPretraining:
    """Marks a key that a pre-training takes over; all others have their defaults there."""


@dataclass(frozen=True)
class AddedLater:
    """Marks a key that earlier results do not have.

    At its default it is left out of digests, so these results keep their identity.
    """


class ConfigKeys(StrictModel):
    """The fields of `RunConfig`. Units: learning rates per step, sizes in pixels, epochs ≥ 1."""

    name: Annotated[
        str, AfterValidator(folder_name), Section("Name and model"), NoEffectOnNumbers()
    ] = Field("", description="Folder of the results. Default: the names of the encoders.")
    image_encoder_name: Annotated[str, UsedByPretraining()] = Field(
        "resnet18",
        description=f"{usage('image')}; `:pretrained` (default) or `:scratch` after it.",
    )
    text_encoder_name: str = Field(
        "clip:ViT-B/32",
        description=(
            f"{usage('text')}, `bert-base-chinese`, "
            "`prompts` (learned class vectors, no text tower), `prompts:<text encoder>` (the same, "
            "initialised with its features), or `none`; `:pretrained` or `:scratch` after it."
        ),
    )
    stem: Annotated[Literal["standard", "cifar"], UsedByPretraining()] = Field(
        "standard",
        description=(
            "`cifar`: first layers of a ResNet for images of about 32 px, a 3×3 convolution with "
            "stride 1 and no pooling."
        ),
    )
    weights_dir: Annotated[str | None, UsedByPretraining()] = Field(
        None, description="Folder or file with pretrained weights, for machines without network."
    )
    embed_dim: int = Field(512, ge=1, le=65536, description="Dimension of the joint embedding.")
    temperature: Positive = Field(
        0.07, ge=0.01, le=100, description="Initial value of the learned softmax temperature."
    )
    freeze_image_encoder: bool = Field(False, description="Do not train the image encoder.")
    freeze_text_encoder: bool = Field(False, description="Do not train the text encoder.")

    img_size: Annotated[int, Section("Images"), UsedByPretraining()] = Field(
        224, ge=8, le=4096, description="Width and height of the encoder's input, px."
    )
    augmentation: Literal["none", "minimal", "standard"] = Field(
        "standard",
        description=(
            "`minimal`: horizontal flips. `standard`: random crops, horizontal flips, brightness "
            "and contrast."
        ),
    )
    horizontal_flip: Annotated[bool | None, UsedByPretraining()] = Field(
        None,
        description=(
            "Mirror half of the images; false if left and right matter. null: unless `augmentation`"
            " is `none`."
        ),
    )
    vertical_flip: Annotated[bool, UsedByPretraining()] = Field(
        False, description="Flip half of the images upside down."
    )
    mixup_alpha: NonNegative = Field(
        0.0,
        le=100,
        description="α of mixup: two images blended with a share from Beta(α, α); 0: off.",
    )
    cutmix_alpha: NonNegative = Field(
        0.0,
        le=100,
        description="α of CutMix: a rectangle of another image, area from Beta(α, α); 0: off.",
    )
    label_smoothing: NonNegative = Field(
        0.0, lt=1, description="Share of each training label that is spread over all classes."
    )
    num_workers: Annotated[int, NoEffectOnNumbers(), UsedByPretraining()] = Field(
        4,
        ge=0,
        le=256,
        description=(
            "Processes that decode images, once for all folds or, if the pixel cache is full, in "
            "each fold."
        ),
    )

    class_texts_file: Annotated[str | None, Section("Class texts")] = Field(
        None, description="JSON file: class → text, or class → list of prompts."
    )
    text_template: str | None = Field(
        None, description="Text for classes without one; `{}` stands for the class name."
    )
    prompts_per_class: int | None = Field(
        None,
        ge=1,
        le=256,
        description=(
            "Maximum number of prompts per class; with `prompts`: learned vectors per class."
        ),
    )

    batch_size: Annotated[int, Section("Optimisation")] = Field(
        32, ge=2, le=1_048_576, description="Images per step."
    )
    micro_batch_size: int | None = Field(
        None,
        ge=2,
        le=1_048_576,
        description=(
            "Images that pass through the image encoder at once, if a whole batch does not fit into"
            " memory; losses and their negatives still use the whole batch. null: the whole batch."
        ),
    )
    activation_checkpointing: Annotated[bool, NoEffectOnNumbers(), UsedByPretraining()] = Field(
        False,
        description=(
            "Recompute activations of the image encoder in the backward pass instead of storing "
            "them: less memory, about a third more time, the same gradients."
        ),
    )
    epochs: int = Field(100, ge=1, le=1_000_000, description="Passes over the training fold.")
    learning_rate: Positive = Field(1e-4, le=10, description="Peak of the cosine schedule.")
    weight_decay: NonNegative = Field(
        0.01,
        le=1,
        description="Weight decay of AdamW, on matrices and kernels; not on norms and biases.",
    )
    image_lr_scale: NonNegative = Field(
        1.0, le=100, description="Factor on the learning rate of the image encoder."
    )
    text_lr_scale: NonNegative = Field(
        1.0, le=100, description="Factor on the learning rate of the text encoder."
    )
    warmup_epochs: NonNegative = Field(
        1.0, description="Epochs of linear warm-up, at most a tenth of all epochs."
    )
    grad_clip_norm: Positive | None = Field(
        1.0, description="Maximum gradient norm over all parameters; null: no clipping."
    )
    use_amp: Annotated[bool, UsedByPretraining()] = Field(
        True,
        description=(
            "Mixed precision on devices that benefit from it; logits and losses stay in float32."
        ),
    )
    amp_dtype: Annotated[Literal["auto", "bfloat16", "float16"], UsedByPretraining()] = Field(
        "auto",
        description=(
            "`auto`: bfloat16 on devices that support it and benefit from it, else float16 with "
            "scaling (GPUs) or float32 (CPUs)."
        ),
    )
    compile: Annotated[Literal["auto"] | bool, NoEffectOnNumbers(), UsedByPretraining()] = Field(
        False,
        description=(
            "torch.compile for the image encoder. `auto`: on a GPU, in trainings of at least 10000 "
            "steps per fold."
        ),
    )
    cuda_graphs: Annotated[Literal["auto"] | bool, NoEffectOnNumbers()] = Field(
        False,
        description=(
            "Record the training step once and replay it as a CUDA graph, which saves small models "
            "the launch of every kernel. `auto`: on an NVIDIA GPU, for batches of at most as many "
            "pixels as 64 images of 224 px, in trainings of at least 500 steps per fold."
        ),
    )
    loss: MainLossConfig = Field(
        default_factory=ClipLossConfig, description='Main loss: `{"type": …}` and its parameters.'
    )
    aux_losses: Annotated[tuple[AuxLossConfig, ...], Field(strict=False)] = Field(
        (),
        description='Losses added to the main loss: names, or objects `{"type": …, "weight": …}`.',
    )

    pretrain: Annotated[PretrainConfig | None, Section("Before the folds"), UsedByPretraining()] = (
        Field(
            None,
            description=(
                "Pre-train the image encoder without labels: an object with `loss`, `images`, "
                "`epochs` and more. null: no pre-training."
            ),
        )
    )

    use_weighted_sampling: Annotated[bool, Section("Imbalance")] = Field(
        False, description="Draw training images with replacement, weighted by class."
    )
    weight_method: WeightMethod = Field(
        "inverse_freq",
        description=(
            "Class weight: N/(C·(n+smooth)), its square root, balanced or effective number."
        ),
    )
    weight_smooth_factor: NonNegative = Field(
        1.0, description="Added to each class count before the weights are computed."
    )

    use_cv: Annotated[bool, Section("Folds and choice of the epoch")] = Field(
        True, description="k-fold cross-validation; false: one stratified hold-out."
    )
    n_splits: int = Field(5, ge=2, le=1000, description="Number of folds.")
    n_repeats: Annotated[int, AddedLater()] = Field(
        1,
        ge=1,
        le=1000,
        description=(
            "Divisions of the images into `n_splits` folds, each with its own seed derived from "
            "`random_state`; `n_splits` · `n_repeats` folds are trained."
        ),
    )
    val_fraction: Positive = Field(
        0.2, lt=1, description="Share of the hold-out when `use_cv` is false."
    )
    test_dir: Annotated[str | None, NoEffectOnNumbers()] = Field(
        None,
        description=(
            "Folder or table of test images of the same classes. Each fold evaluates them once, "
            "with the model that validation chose; their scores are reported separately."
        ),
    )
    inner_val_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description=(
            "Share of each training fold set aside to choose the epoch, so that the reported fold "
            "does not influence the choice. 0: the epoch is chosen on the reported fold, and the "
            "summary says so."
        ),
    )
    group_pattern: str | None = Field(
        None,
        description=(
            "Regular expression on the file name; images with equal first group stay in one fold."
        ),
    )
    random_state: Annotated[int, UsedByPretraining()] = Field(
        42, ge=0, le=2**32 - 1, description="Seed of folds and training."
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Epochs without improvement before a fold stops; null: never."
    )
    early_stopping_min_delta: NonNegative = Field(
        0.001, description="Smallest change that counts as an improvement for early stopping."
    )
    early_stopping_monitor: Monitor = Field(
        "val_loss", description="Metric that early stopping and the best checkpoint use."
    )
    save_best: bool = Field(True, description="Write `checkpoint_best.pth`.")
    keep_epoch_predictions: Annotated[bool, NoEffectOnNumbers()] = Field(
        True,
        description=(
            "Keep the validation probabilities of every epoch, from which the headline corrects "
            "the choice of the epoch; false: the headline is the last epoch."
        ),
    )
    gpu_id: Annotated[int | str | None, NoEffectOnNumbers(), UsedByPretraining()] = Field(
        None, description="Run this config on this device only."
    )
    gpus_per_task: Annotated[int, NoEffectOnNumbers()] = Field(
        1,
        ge=1,
        description="GPUs that train one fold together; every batch is divided among them.",
    )

    @field_validator("image_encoder_name", "text_encoder_name")
    @classmethod
    def _encoder_is_known(cls, value: str, info: ValidationInfo) -> str:
        is_image = info.field_name == "image_encoder_name"
        (parse_image_encoder if is_image else parse_text_encoder)(value)
        return value

    @field_validator("text_template")
    @classmethod
    def _template_has_a_place(cls, value: str | None) -> str | None:
        if value is not None and value.count("{}") != 1:
            raise ValueError("needs `{}` exactly once, where the class name goes")
        return value

    @field_validator("group_pattern")
    @classmethod
    def _pattern_is_a_regex(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groups
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        if groups == 0:
            raise ValueError(
                "needs a group in parentheses that captures the patient, as in `^(p\\d+)_`"
            )
        return value

    @field_validator("gpu_id")
    @classmethod
    def _gpu_is_not_negative(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 0:
            raise ValueError("counts from 0; leave it out to use any listed GPU")
        return value


def keys_without_effect() -> frozenset[str]:
    """Keys that never change a trained number."""
    return _marked(NoEffectOnNumbers)


def keys_of_pretraining() -> frozenset[str]:
    """Keys that a pre-training takes over."""
    return _marked(UsedByPretraining)


def defaults_added_later() -> dict[str, Any]:
    """Defaults of the keys that earlier results do not have."""
    fields = ConfigKeys.model_fields
    return {key: fields[key].default for key in _marked(AddedLater)}


def _marked(mark: type[object]) -> frozenset[str]:
    fields = ConfigKeys.model_fields.items()
    return frozenset(
        key for key, field in fields if any(isinstance(one, mark) for one in field.metadata)
    )
