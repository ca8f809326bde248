"""The family `clip`: single towers of open_clip models.

Legend: L context length, W width of the text transformer, E embedding size of the CLIP model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, _build_text_tower, _build_vision_tower
from torch import Tensor, nn

from clip_pkg.config.encoders import EncoderSpec, Tower
from clip_pkg.models.assets import Asset, Snapshot, WeightsFile, both_formats
from clip_pkg.models.clip_text import ClipText
from clip_pkg.models.families import Recipe
from clip_pkg.models.image_encoder import ImageEncoder
from clip_pkg.models.state_dicts import load_strictly, read_state_dict
from clip_pkg.models.weights import obtain

logger = logging.getLogger(__name__)

# Text tower of the class CLIP; CustomTextCLIP has it under `text.`
_TEXT_KEYS = (
    "positional_embedding",
    "token_embedding.",
    "transformer.",
    "ln_final.",
    "text_projection",
)
_POSITIONS = ("positional_embedding", "attnpool.positional_embedding")


def assets(spec: EncoderSpec, tower: Tower) -> tuple[Asset, ...]:
    """Pretrained weights of the whole model; configuration and tokenizer from transformers."""
    found: list[Asset] = [_weights(spec)] if spec.weights == "pretrained" else []
    text = _config(spec)["text_cfg"] if tower == "text" else {}
    if name := text.get("hf_model_name"):
        found.append(Snapshot(f"the configuration of {name}", name, ("configuration",)))
    if name := text.get("hf_tokenizer_name"):
        found.append(Snapshot(f"the tokenizer {name}", name, ("tokenizer",)))
    return tuple(found)


def build_image(spec: EncoderSpec, img_size: int, weights_dir: Path | None) -> ImageEncoder:
    """Build the visual tower; see `FamilyModule`."""
    needed = assets(spec, "image")
    weights = obtain(needed[0], spec, weights_dir) if needed else None
    return ImageEncoder(
        visual_tower(spec, img_size, weights), embedding_size(spec), *normalisation(spec)
    )


def recipe(spec: EncoderSpec, img_size: int) -> Recipe:
    """Call of `open_clip.create_model`."""
    quick = _quick_gelu(spec, _config(spec))
    options = {"force_image_size": img_size, "force_quick_gelu": quick}
    call = 'open_clip.create_model(encoder["model"], **encoder["options"]).visual'
    return Recipe("open_clip", spec.model, options, call)


def build_text(spec: EncoderSpec, prompts: Sequence[str], weights_dir: Path | None) -> ClipText:
    """Build the text tower; see `FamilyModule`."""
    found = {asset: obtain(asset, spec, weights_dir) for asset in assets(spec, "text")}
    weights = next((path for asset, path in found.items() if not isinstance(asset, Snapshot)), None)
    tokens = _tokenizer(spec, _component(found, "tokenizer"))(prompts)
    tower = text_tower(spec, weights, _component(found, "configuration"))
    return ClipText(tower, tokens, embedding_size(spec))


def embedding_size(spec: EncoderSpec) -> int:
    """E of the open_clip model, the size of both towers' features."""
    return int(_config(spec)["embed_dim"])


def normalisation(spec: EncoderSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of the images the weights were trained on."""
    cfg = _tag_config(spec)
    if not cfg:
        return tuple(OPENAI_DATASET_MEAN), tuple(OPENAI_DATASET_STD)
    return tuple(cfg["mean"]), tuple(cfg["std"])


def model_config(spec: EncoderSpec, embed_dim: int, img_size: int) -> dict[str, Any]:
    """open_clip's configuration of the model, for other sizes and with the weights' own QuickGELU.

    A visual tower of timm keeps its own size: it follows from its name.
    """
    config = _config(spec)
    if not config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["image_size"] = img_size
    return {**config, "embed_dim": embed_dim, "quick_gelu": _quick_gelu(spec, config)}


def visual_tower(spec: EncoderSpec, img_size: int, weights: Path | None) -> nn.Module:
    """Image tower, [B, 3, img_size, img_size] → [B, E].

    weights: a whole CLIP model's file; position embeddings are resampled to img_size. None leaves
    the tower as initialised. Raises CheckpointError if the file does not fit.
    """
    config = _config(spec)
    cfg = CLIPVisionCfg(**config["vision_cfg"])
    cfg.output_tokens = False
    if not cfg.timm_model_name:
        cfg.image_size = img_size
    # open_clip's public constructors build both towers by calling these two functions.
    tower = _build_vision_tower(config["embed_dim"], cfg, _quick_gelu(spec, config))
    if weights is not None:
        state = _visual_state(read_state_dict(weights))
        _resample_positions(state, tower)
        load_strictly(tower, state, source=str(weights))
    if cfg.timm_model_name and cfg.image_size != img_size:
        tower.set_input_size(img_size)
    visual: nn.Module = tower
    return visual


def text_tower(spec: EncoderSpec, weights: Path | None, hf_folder: Path | None) -> nn.Module:
    """Text tower, token ids [M, L] → [M, E].

    hf_folder: the transformers configuration of towers that open_clip takes from there.
    Raises CheckpointError if the file does not fit.
    """
    config = _config(spec)
    cfg = CLIPTextCfg(**config["text_cfg"])
    cfg.output_tokens = False
    cfg.hf_model_pretrained = False
    if hf_folder is not None:
        cfg.hf_model_name = str(hf_folder)
    tower: nn.Module = _build_text_tower(config["embed_dim"], cfg, _quick_gelu(spec, config))
    if weights is not None:
        state = _text_state(read_state_dict(weights))
        # A buffer that transformers stopped saving.
        state.pop("transformer.embeddings.position_ids", None)
        load_strictly(tower, state, source=str(weights))
    return tower


def _weights(spec: EncoderSpec) -> WeightsFile:
    cfg = open_clip.get_pretrained_cfg(spec.model, spec.tag)
    repo, _, filename = cfg.get("hf_hub", "").rpartition("/")
    url = cfg.get("url") or None
    names = [f"{spec.model}-{spec.tag}", f"{spec.model}.{spec.tag}", spec.model]
    return WeightsFile(
        what=f"pretrained weights {spec.tag} of {spec.model}",
        names=(*names, Path(url).stem) if url else tuple(names),
        repo=repo or None,
        filenames=both_formats(filename or "open_clip_pytorch_model.bin"),
        url=url,
        architecture=None,
        scratch=f"clip:{spec.model}:scratch",
    )


def _component(found: dict[Asset, Path], component: str) -> Path | None:
    """Folder of the asset that provides one part of a transformers model."""
    snapshots = ((a, path) for a, path in found.items() if isinstance(a, Snapshot))
    return next((path for asset, path in snapshots if component in asset.components), None)


def _tokenizer(spec: EncoderSpec, folder: Path | None) -> Callable[[Sequence[str]], Tensor]:
    """Tokenizer of the model: open_clip's own, or transformers' from a local folder."""
    config = _config(spec)["text_cfg"]
    length = config.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    if folder is None:
        simple = open_clip.get_tokenizer(spec.model)

        def tokenize(prompts: Sequence[str]) -> Tensor:
            for prompt in prompts:
                if (count := len(simple.encode(prompt)) + 2) > length:
                    logger.warning(
                        "%s reads %d tokens; truncating a prompt of %d: %.60s…",
                        *(spec.written, length, count, prompt),
                    )
            tokens: Tensor = simple(list(prompts))
            return tokens

        return tokenize
    tokenizer = open_clip.tokenizer.HFTokenizer(
        str(folder),
        context_length=length,
        tokenizer_mode=config.get("tokenizer_mode"),
        local_files_only=True,
        **config.get("tokenizer_kwargs", {}),
    )
    return lambda prompts: tokenizer(list(prompts))


def _config(spec: EncoderSpec) -> dict[str, Any]:
    config: dict[str, Any] = open_clip.get_model_config(spec.model)
    return config


def _tag_config(spec: EncoderSpec) -> Mapping[str, Any]:
    """open_clip's entry for the pretrained weights; empty for `:scratch`."""
    found: Mapping[str, Any] = (
        open_clip.get_pretrained_cfg(spec.model, spec.tag) if spec.tag else {}
    )
    return found


def _quick_gelu(spec: EncoderSpec, config: Mapping[str, Any]) -> bool:
    """Whether the weights were trained with QuickGELU, which callers of open_clip must choose."""
    return bool(_tag_config(spec).get("quick_gelu", config.get("quick_gelu", False)))


def _visual_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "visual."
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}


def _text_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    inner = {n.removeprefix("text."): v for n, v in state.items() if n.startswith("text.")}
    return inner or {n: value for n, value in state.items() if n.startswith(_TEXT_KEYS)}


def _resample_positions(state: dict[str, Tensor], tower: nn.Module) -> None:
    """Resample position embeddings of a square grid, after one class token, to the tower's grid."""
    own = tower.state_dict()
    for name in _POSITIONS:
        if name not in state or name not in own or state[name].shape == own[name].shape:
            continue
        token, grid = state[name][:1], state[name][1:].float()
        old, new = math.isqrt(len(grid)), math.isqrt(len(own[name]) - 1)
        if old * old != len(grid):
            continue  # not a grid; the strict load reports it
        square = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
        square = F.interpolate(square, size=(new, new), mode="bicubic", antialias=True)
        state[name] = F.pad(square.permute(0, 2, 3, 1).reshape(new * new, -1), (0, 0, 1, 0))
        state[name][:1] = token
