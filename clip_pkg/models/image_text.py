"""The image–text model: images and class texts → features in one space.

Legend: B images, C classes, M prompts of all classes, concatenated, F features of an encoder,
D embed_dim.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_pkg.base.errors import CheckpointError
from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.config.schema import RunConfig
from clip_pkg.losses.functional.numerics import widened, widest_float
from clip_pkg.models.families import TextTower
from clip_pkg.models.image_encoder import ImageEncoder, build_image_encoder
from clip_pkg.models.state_dicts import load_strictly
from clip_pkg.models.text_encoder import (
    FrozenText,
    LearnedPrompts,
    TextEncoder,
    TextFeatures,
    build_config_text_encoder,
    rows_per_class,
)

# The range of a config's `temperature`; CLIP has the same maximum.
MAX_LOG_SCALE = math.log(100)
MIN_LOG_SCALE = -MAX_LOG_SCALE

VOCABULARY_KEY = "text_encoder.vocabulary"


class ImageTextModel(nn.Module):
    """Two encoders, projections into one space, and a learned temperature.

    prompt_counts: prompts per class, [C]; the text encoder's rows are ordered by class. Under
    autocast the encoders and projections run in half precision; returned features are float32.
    """

    first_rows: Tensor
    counts: Tensor
    averaging: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder | None,
        prompt_counts: Sequence[int],
        *,
        embed_dim: int,
        temperature: float,
        freeze_image_encoder: bool = False,
    ) -> None:
        super().__init__()
        assert min(prompt_counts) >= 1, "every class has a prompt"
        self.image_encoder = image_encoder
        self.image_projection = _projection(image_encoder.num_features, embed_dim)
        self.text_encoder = text_encoder
        self.text_projection = _text_projection(text_encoder, embed_dim)
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.image_encoder_is_frozen = freeze_image_encoder
        if freeze_image_encoder:
            self.image_encoder.requires_grad_(requires_grad=False)
        counts = torch.tensor(prompt_counts)
        first_rows = counts.cumsum(0) - counts
        classes = torch.arange(len(counts)).repeat_interleave(counts)
        averaging = F.one_hot(classes, len(counts)).T / counts.unsqueeze(1)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("first_rows", first_rows, persistent=False)
        self.register_buffer("averaging", averaging, persistent=False)

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.image_projection.out_features

    def train(self, mode: bool = True) -> Self:
        """Switch mode; a frozen image encoder stays in evaluation mode."""
        super().train(mode)
        if self.image_encoder_is_frozen:
            self.image_encoder.eval()
        return self

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.counts)

    @property
    def has_text(self) -> bool:
        """Whether the model has class features."""
        return self.text_encoder is not None

    def image_features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] → L2-normalised features [B, D], float32."""
        return F.normalize(self.image_embeddings(images), dim=-1)

    def image_embeddings(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] → features [B, D] before normalisation, float32.

        Also accepts the features [B, F] of a frozen encoder in place of images.
        """
        if images.ndim == 2:
            assert self.image_encoder_is_frozen, "a trained encoder needs the images"
            return widened(self.image_projection(images))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.image_encoder_is_frozen):
            features = self.image_encoder(images)
        return widened(self.image_projection(features))

    def class_tokens(self, prompt_rows: Tensor) -> Tensor:
        """Token ids [C, L] of one prompt row [C] per class, -1 for padding."""
        assert isinstance(self.text_encoder, TextTower), "only text towers have tokens"
        return self.text_encoder.prompt_tokens[prompt_rows]

    @property
    def vocabulary_size(self) -> int | None:
        """Number of token ids; None without a tokenizer."""
        return (
            self.text_encoder.vocabulary_size if isinstance(self.text_encoder, TextTower) else None
        )

    def class_features(self, prompt_rows: Tensor) -> Tensor:
        """L2-normalised features [C, D] float32 of prompt rows [C] (any number of rows)."""
        assert self.text_encoder is not None, "a model without texts has no class features"
        features = self.text_encoder(prompt_rows)
        return F.normalize(widened(self.text_projection(features)), dim=-1)

    def mean_class_features(self) -> Tensor:
        """Normalised mean of the normalised features of all prompts of each class, [C, D]."""
        all_prompts = self.class_features(
            torch.arange(self.averaging.shape[1], device=self.counts.device)
        )
        with torch.autocast(all_prompts.device.type, enabled=False):
            return F.normalize(self.averaging @ all_prompts, dim=-1)

    def draw_prompts(self, generator: torch.Generator | None = None) -> Tensor:
        """Rows [C] of one random prompt per class, on the model's device.

        Drawn on the generator's device; a generator on the model's device avoids a transfer.
        """
        device = self.counts.device if generator is None else generator.device
        uniform = torch.rand(
            len(self.counts), generator=generator, device=device, dtype=widest_float(device)
        )
        offsets = (uniform.to(self.counts.device, non_blocking=True) * self.counts).long()
        return self.first_rows + offsets

    def logit_scale(self) -> Tensor:
        """1/temperature, a scalar with gradient."""
        return self.log_logit_scale.exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep 1/temperature within [0.01, 100]; called after each step."""
        self.log_logit_scale.clamp_(MIN_LOG_SCALE, MAX_LOG_SCALE)

    def parameter_groups(
        self,
        lr: float,
        weight_decay: float,
        image_lr_scale: float = 1.0,
        text_lr_scale: float = 1.0,
    ) -> list[dict[str, Any]]:
        """Non-empty AdamW groups; each trainable parameter is in exactly one.

        Each has `name`, `params`, `lr`, `weight_decay`. Weights decay, but not biases, norms, the
        logit scale and what an encoder excludes (such as position embeddings). The scales are
        factors on the learning rate of the encoders; projections use `lr`.
        """
        scales = {"image_encoder": image_lr_scale, "text_encoder": text_lr_scale}
        undecayed = set(self._undecayed_names())
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            module = next((one for one in scales if name.startswith(f"{one}.")), "head")
            decays = parameter.ndim > 1 and name not in undecayed
            key = module if decays else f"{module}_undecayed"
            group = groups.setdefault(
                key,
                {
                    "name": key,
                    "params": [],
                    "lr": lr * scales.get(module, 1.0),
                    "weight_decay": weight_decay if decays else 0.0,
                },
            )
            group["params"].append(parameter)
        return list(groups.values())

    def checkpoint_state(self) -> dict[str, Tensor]:
        """All parameters and persistent buffers, on the CPU.

        A frozen text encoder is represented by its features.
        """
        return {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}

    def load_checkpoint_state(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Load a `checkpoint_state`. Raises CheckpointError if it does not fit."""
        own = self.state_dict().get(VOCABULARY_KEY)
        theirs = state.get(VOCABULARY_KEY)
        if own is not None and theirs is not None and not torch.equal(own.cpu(), theirs.cpu()):
            raise CheckpointError(f"{source}: was trained with other class texts")
        load_strictly(self, state, source=source)

    def _undecayed_names(self) -> Iterator[str]:
        """Parameters that the encoders' libraries exclude from weight decay."""
        for name, module in self.named_modules():
            if callable(excluded := getattr(module, "no_weight_decay", None)):
                yield from (f"{name}.{parameter}" for parameter in excluded())


def build_model(
    config: RunConfig,
    classes: Sequence[str],
    prompts: Sequence[Sequence[str]],
    *,
    state: Mapping[str, Tensor] | None = None,
    text_seed: int = 0,
    text_features: TextFeatures = FrozenText.features,
) -> ImageTextModel:
    """Build the model that a config describes, on the CPU, in training mode.

    prompts: per class, [C][P]; P may differ. Random weights come from torch's global generator, in
    the order image encoder, text encoder, projections.
    state: a checkpoint to resume from; nothing pretrained is then needed.
    text_features: computes or looks up the features of a frozen text tower. text_seed: of the
    `:scratch` weights of such a tower.
    Raises WeightsError, CheckpointError or UserError as the encoders do.
    """
    assert len(classes) == len(prompts), "one list of prompts per class"
    directory = Path(config.weights_dir).expanduser() if config.weights_dir else None
    image_spec = config.image_encoder if state is None else config.image_encoder.untrained
    image = build_image_encoder(
        image_spec, img_size=config.img_size, weights_dir=directory, stem=config.stem
    )
    text = build_config_text_encoder(
        config, prompts, state=state, seed=text_seed, text_features=text_features
    )
    model = ImageTextModel(
        image,
        text,
        rows_per_class(config, prompts),
        embed_dim=config.embed_dim,
        temperature=config.temperature,
        freeze_image_encoder=config.freeze_image_encoder,
    )
    if _are_one_clip(config.image_encoder, config.text_encoder):
        _keep_alignment(model)
    if state is not None:
        model.load_checkpoint_state(state, source="the checkpoint")
    return model.train()


def _text_projection(encoder: TextEncoder | None, embed_dim: int) -> nn.Module:
    """Map from a text encoder's features into the joint space."""
    if encoder is None or (isinstance(encoder, LearnedPrompts) and encoder.in_joint_space):
        return nn.Identity()
    return _projection(encoder.num_features, embed_dim)


def _projection(features: int, embed_dim: int) -> nn.Linear:
    """Linear map into the joint space, initialised as in CLIP."""
    projection = nn.Linear(features, embed_dim, bias=False)
    nn.init.normal_(projection.weight, std=features**-0.5)
    return projection


def _are_one_clip(image: EncoderSpec, text: EncoderSpec) -> bool:
    """Whether both encoders are the towers of one pretrained CLIP model."""
    return (
        image.family == text.family == "clip"
        and (image.model, image.tag) == (text.model, text.tag)
        and image.weights == text.weights == "pretrained"
    )


def _keep_alignment(model: ImageTextModel) -> None:
    """Start from CLIP's joint space: equal projections, the identity if the sizes allow it."""
    weight = model.image_projection.weight
    if weight.shape[0] == weight.shape[1]:
        nn.init.eye_(weight)
    else:
        nn.init.orthogonal_(weight)
    assert isinstance(model.text_projection, nn.Linear), "a CLIP tower has a projection"
    with torch.no_grad():
        model.text_projection.weight.copy_(weight)
