"""`RunConfig`: one training configuration, frozen and checked; the only place for defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from clip_pkg.base.paths import folder_name
from clip_pkg.config.encoders import EncoderSpec, parse_image_encoder, parse_text_encoder
from clip_pkg.config.loss_blocks import NonNegative, Positive, WeightMethod
from clip_pkg.config.losses import AuxLossConfig, ClipLossConfig, MainLossConfig
from clip_pkg.config.pretraining import PretrainConfig
from clip_pkg.config.rules import contradictions
from clip_pkg.metrics.table import Monitor, lower_is_better

Fraction: TypeAlias = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


def default_name(values: Mapping[str, Any]) -> str:
    """Name that the encoders of a config make."""
    fields = RunConfig.model_fields
    image = values.get("image_encoder_name", fields["image_encoder_name"].default)
    text = values.get("text_encoder_name", fields["text_encoder_name"].default)
    return f"{image}_{text}"


class RunConfig(BaseModel):
    """One model to cross-validate. Units: learning rates per step, sizes in pixels, epochs ≥ 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # --- what it is called, what it is made of
    name: str = Field("", description="Folder of the results; from the encoders when left out.")
    image_encoder_name: str = Field(
        "resnet18",
        description=(
            "Any timm name or `clip:<model>`; `:pretrained` (default) or `:scratch` after it."
        ),
    )
    text_encoder_name: str = Field(
        "clip:ViT-B/32",
        description=(
            "`clip:<open_clip model>[:<tag>]`, `hf:<name or folder>`, `bert-base-chinese`, "
            "`prompts` (learned class vectors, no text tower), `prompts:<text encoder>` (the same, "
            "started from its features), or `none`; `:pretrained` or `:scratch` after it."
        ),
    )
    stem: Literal["standard", "cifar"] = Field(
        "standard",
        description=(
            "`cifar`: the first layers of a ResNet for images of 32 px, a 3×3 convolution of "
            "stride 1 and no pooling."
        ),
    )
    weights_dir: str | None = Field(
        None, description="Folder or file with pretrained weights, for machines without network."
    )
    embed_dim: int = Field(512, ge=1, le=65536, description="Size of the joint embedding.")
    temperature: Positive = Field(
        0.07, ge=0.01, le=100, description="Start of the learned softmax temperature."
    )
    freeze_image_encoder: bool = Field(False, description="Keep the image encoder as it is.")
    freeze_text_encoder: bool = Field(False, description="Keep the text encoder as it is.")

    # --- images
    img_size: int = Field(
        224, ge=8, le=4096, description="Side of the square the encoder sees, px."
    )
    augmentation: Literal["none", "minimal", "standard"] = Field(
        "standard",
        description=(
            "`minimal`: horizontal flips. `standard`: random crops, horizontal flips, brightness "
            "and contrast."
        ),
    )
    horizontal_flip: bool | None = Field(
        None, description="Overrides the augmentation's own choice; false where sides matter."
    )
    vertical_flip: bool = Field(False, description="Flip upside down half of the time.")
    mixup_alpha: NonNegative = Field(
        0.0,
        le=100,
        description="α of mixup: two images blended by a share from Beta(α, α); 0: none.",
    )
    cutmix_alpha: NonNegative = Field(
        0.0,
        le=100,
        description="α of cutmix: a rectangle of another image, area from Beta(α, α); 0: none.",
    )
    label_smoothing: NonNegative = Field(
        0.0, lt=1, description="Share of each training label that is spread over all classes."
    )
    num_workers: int = Field(
        4,
        ge=0,
        le=256,
        description="Processes that decode images: once for all folds or, where the pixel cache "
        "has no room, in each fold.",
    )

    # --- class texts
    class_texts_file: str | None = Field(
        None, description="JSON file: class → text, or class → list of prompts."
    )
    text_template: str | None = Field(
        None, description="Text for classes without one, with `{}` in place of the class name."
    )
    prompts_per_class: int | None = Field(
        None,
        ge=1,
        le=256,
        description=(
            "Use at most so many prompts per class; with `prompts`: learned vectors per class."
        ),
    )

    # --- optimisation
    batch_size: int = Field(32, ge=2, le=1_048_576, description="Images per step.")
    micro_batch_size: int | None = Field(
        None,
        ge=2,
        le=1_048_576,
        description=(
            "Images that are in the image encoder at once, where a whole batch does not fit into "
            "the memory; losses and their negatives are of the whole batch all the same. null: all."
        ),
    )
    activation_checkpointing: bool = Field(
        False,
        description=(
            "Compute activations of the image encoder again in the backward pass instead of "
            "keeping them: less memory, about a third more time, the same gradients."
        ),
    )
    epochs: int = Field(100, ge=1, le=1_000_000, description="Passes over the training fold.")
    learning_rate: Positive = Field(1e-4, le=10, description="Peak of the cosine schedule.")
    weight_decay: NonNegative = Field(
        0.01, le=1, description="AdamW's, on matrices and kernels; not on norms and biases."
    )
    image_lr_scale: NonNegative = Field(
        1.0, le=100, description="Factor on the learning rate of the image encoder."
    )
    text_lr_scale: NonNegative = Field(
        1.0, le=100, description="Factor on the learning rate of the text encoder."
    )
    warmup_epochs: NonNegative = Field(
        1.0, description="Linear warm-up; at most a tenth of all epochs is used for it."
    )
    grad_clip_norm: Positive | None = Field(
        1.0, description="Largest gradient norm over all parameters; null for none."
    )
    use_amp: bool = Field(
        True,
        description="Mixed precision where the device gains by it; logits and losses in float32.",
    )
    amp_dtype: Literal["auto", "bfloat16", "float16"] = Field(
        "auto",
        description=(
            "`auto`: bfloat16 where the device has it and gains by it, else float16 with scaling "
            "(GPUs) or float32 (CPUs)."
        ),
    )
    compile: Literal["auto"] | bool = Field(
        "auto",
        description=(
            "torch.compile for the image encoder. `auto`: on a GPU, in trainings of at least "
            "10000 steps per fold."
        ),
    )
    cuda_graphs: Literal["auto"] | bool = Field(
        "auto",
        description=(
            "Record the training step once and replay it as a CUDA graph, which saves small models "
            "the start of every kernel. `auto`: on an NVIDIA GPU, for batches of at most as many "
            "pixels as 64 images of 224 px, in trainings of at least 500 steps per fold."
        ),
    )
    loss: MainLossConfig = Field(
        default_factory=ClipLossConfig, description='Main loss: `{"type": …}` and its parameters.'
    )
    aux_losses: Annotated[tuple[AuxLossConfig, ...], Field(strict=False)] = Field(
        (), description='Losses added to it: names, or objects `{"type": …, "weight": …}`.'
    )

    # --- before the folds
    pretrain: PretrainConfig | None = Field(
        None,
        description=(
            "Pre-train the image encoder without labels first: an object with `loss`, `images`, "
            "`epochs` and more. null: no pre-training."
        ),
    )

    # --- imbalance
    use_weighted_sampling: bool = Field(
        False, description="Draw training images with replacement, weighted by class."
    )
    weight_method: WeightMethod = Field(
        "inverse_freq",
        description=(
            "Class weight: N/(C·(n+smooth)), its square root, balanced or effective number."
        ),
    )
    weight_smooth_factor: NonNegative = Field(
        1.0, description="Added to each class count before weights are made."
    )

    # --- folds, choice of the epoch
    use_cv: bool = Field(
        True, description="k-fold cross-validation; false: one stratified hold-out."
    )
    n_splits: int = Field(5, ge=2, le=1000, description="Number of folds.")
    val_fraction: Fraction = Field(0.2, description="Share of the hold-out when `use_cv` is false.")
    test_dir: str | None = Field(
        None,
        description=(
            "Folder or table of test images, of the same classes. Each fold looks at them once, "
            "with the model that validation chose; the scores are reported apart."
        ),
    )
    inner_val_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description=(
            "Share of each training fold set aside to choose the epoch, so that the reported fold "
            "has no say in it. 0: the epoch is chosen on the reported fold, and the summary says "
            "so."
        ),
    )
    group_pattern: str | None = Field(
        None,
        description=(
            "Regular expression on the file name; images with equal first group stay together."
        ),
    )
    random_state: int = Field(42, ge=0, le=2**32 - 1, description="Seed of folds and training.")
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Epochs without improvement before a fold stops; null: never."
    )
    early_stopping_min_delta: NonNegative = Field(
        0.001, description="Smallest change that counts as an improvement for early stopping."
    )
    early_stopping_monitor: Monitor = Field(
        "val_loss", description="What early stopping and the best checkpoint look at."
    )
    save_best: bool = Field(True, description="Write `checkpoint_best.pth`.")
    gpu_id: int | str | None = Field(None, description="Run this config on this device only.")
    gpus_per_task: int = Field(
        1,
        ge=1,
        description="GPUs that train one fold together, each a part of every batch.",
    )

    @field_validator("image_encoder_name")
    @classmethod
    def _image_encoder_is_known(cls, value: str) -> str:
        parse_image_encoder(value)
        return value

    @field_validator("text_encoder_name")
    @classmethod
    def _text_encoder_is_known(cls, value: str) -> str:
        parse_text_encoder(value)
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
        except re.error as error:
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

    @model_validator(mode="before")
    @classmethod
    def _name_from_encoders(cls, data: Any) -> Any:
        """Give an unnamed config the folder name that its encoders make."""
        if isinstance(data, dict) and data.get("name", "") == "":
            return {**data, "name": default_name(data)}
        return data

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, value: str) -> str:
        return folder_name(value)

    @model_validator(mode="after")
    def _keys_fit_together(self, info: ValidationInfo) -> RunConfig:
        found = contradictions(self, (info.context or {}).get("wrong_keys", ()))
        if found:
            raise PydanticCustomError(
                "contradictions", "{text}", {"found": found, "text": "; ".join(found.values())}
            )
        return self

    @property
    def image_encoder(self) -> EncoderSpec:
        """The image encoder, read."""
        return parse_image_encoder(self.image_encoder_name)

    @property
    def text_encoder(self) -> EncoderSpec:
        """The text encoder, read."""
        return parse_text_encoder(self.text_encoder_name)

    @property
    def needs_text(self) -> bool:
        """Whether any loss looks at the class texts."""
        return any(loss.needs_text for loss in (self.loss, *self.aux_losses))

    @property
    def needs_tokens(self) -> bool:
        """Whether any loss reads the token ids of the class texts."""
        return any(loss.needs_tokens for loss in (self.loss, *self.aux_losses))

    @property
    def smallest_batch(self) -> int:
        """Images per batch below which a loss teaches nothing."""
        return max(loss.smallest_batch for loss in (self.loss, *self.aux_losses))

    @property
    def monitor_sign(self) -> int:
        """+1 if a larger value of the monitored metric is better, else -1."""
        return -1 if lower_is_better(self.early_stopping_monitor) else 1
