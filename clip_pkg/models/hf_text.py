"""The family `hf`: transformers text encoders over a fixed list of prompts.

Legend: M prompts, L tokens of the longest, F hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clip_pkg.base.errors import CheckpointError, UserError
from clip_pkg.config.encoders import EncoderSpec, Tower
from clip_pkg.models.assets import Component, Snapshot
from clip_pkg.models.families import TextTower
from clip_pkg.models.state_dicts import mismatch
from clip_pkg.models.weights import obtain

_MAX_TOKENS = 512  # if neither tokenizer nor model has a limit


class HfText(TextTower):
    """Rows [m] of the prompts → features [m, F]: the mean of the last layer over real tokens.

    The mean works for all encoders; only some train the first token to represent the text.
    """

    tokens: Tensor
    mask: Tensor

    def __init__(
        self, model: nn.Module, tokens: Tensor, mask: Tensor, num_features: int, vocabulary: int
    ) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary
        self.vocabulary = None
        self.num_features = num_features
        self.model = model
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        # For losses that use token ids: -1 for padding.
        self.register_buffer("prompt_tokens", tokens.masked_fill(mask == 0, -1), persistent=False)

    def forward(self, prompt_rows: Tensor) -> Tensor:
        mask = self.mask[prompt_rows]
        output = self.model(input_ids=self.tokens[prompt_rows], attention_mask=mask)
        hidden: Tensor = output.last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def assets(spec: EncoderSpec, tower: Tower) -> tuple[Snapshot]:
    """Configuration, tokenizer and, unless they are random, weights."""
    del tower
    components: tuple[Component, ...] = ("configuration", "tokenizer")
    if spec.weights == "pretrained":
        components = ("configuration", "weights", "tokenizer")
    return (Snapshot(f"{', '.join(components)} of {spec.model}", spec.model, components),)


# Without the second, transformers asks on the terminal whether to run the code of a folder.
_OFFLINE = {"local_files_only": True, "trust_remote_code": False}


def build_text(spec: EncoderSpec, prompts: Sequence[str], weights_dir: Path | None) -> HfText:
    """Build the text tower; see `FamilyModule`.

    Raises UserError if transformers is not installed or cannot use the folder.
    """
    transformers = import_transformers()
    (snapshot,) = assets(spec, "text")
    folder = obtain(snapshot, spec, weights_dir)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **_OFFLINE)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **_OFFLINE)
    except Exception as error:  # a damaged or hostile file can raise anything inside the readers
        raise UserError(f"{spec.written}: transformers cannot use {folder}: {error}") from error
    if hasattr(config, "vision_config"):
        raise UserError(
            f"{spec.written} also has an image tower; write CLIP models as `clip:<model>`"
        )
    model = _model(transformers, spec, folder, config)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    limit = min(
        tokenizer.model_max_length,
        getattr(config, "max_position_embeddings", None) or _MAX_TOKENS,
    )
    batch = tokenizer(
        list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
    )
    size = getattr(config, "hidden_size", None) or config.d_model
    return HfText(model, batch["input_ids"], batch["attention_mask"], int(size), len(tokenizer))


def import_transformers() -> Any:
    """Import the optional package. Raises UserError if it is not installed."""
    try:
        import transformers  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise UserError(
            '`hf:` text encoders need the transformers package: pip install "clip_pkg[hf]"'
        ) from error
    return transformers


def _model(transformers: Any, spec: EncoderSpec, folder: Path, config: Any) -> nn.Module:
    if spec.weights == "scratch":
        model = transformers.AutoModel.from_config(config)
    else:
        model = _pretrained(transformers, folder)
    if getattr(config, "is_encoder_decoder", False):
        model = model.get_encoder()
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None  # unused, so it would never be trained
    encoder: nn.Module = model.float()  # transformers keeps the file's precision
    return encoder


def _pretrained(transformers: Any, folder: Path) -> Any:
    try:
        model, report = transformers.AutoModel.from_pretrained(
            folder, output_loading_info=True, **_OFFLINE
        )
    except Exception as error:  # a damaged or hostile file can raise anything inside the readers
        raise CheckpointError(f"{folder}: its weights cannot be loaded: {error}") from error
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    if missing:
        raise CheckpointError(mismatch(str(folder), sorted(missing), []))
    return model
