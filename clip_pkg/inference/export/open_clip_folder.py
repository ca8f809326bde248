"""A folder for open_clip's `create_model_and_transforms("local-dir:FOLDER")`.

Our projections follow the last linear maps of open_clip's towers, so the product of both replaces
the latter, and the joint space may have any size D.

Legend: D size of the joint space, E of the towers' features, V tokens of the tokenizer, U of them
in the class texts, B images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.base.errors import CheckpointError, UserError
from clip_pkg.base.files import write_json
from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.config.schema import RunConfig
from clip_pkg.inference.export.onnx_file import FLOAT32, LinearHead, linear_head
from clip_pkg.inference.fold_classifier import CheckpointContent, FoldClassifier
from clip_pkg.models import clip_towers
from clip_pkg.models.assets import Snapshot
from clip_pkg.models.classifier import class_features
from clip_pkg.models.image_text import ImageTextModel, build_model
from clip_pkg.models.weights import obtain

WEIGHTS_FILE, CONFIG_FILE = "open_clip_model.safetensors", "open_clip_config.json"
MAX_DEVIATION = 1e-5  # of unit features
IMAGES_COMPARED = 4
SAME_DIRECTION = 1e-2  # between unit vectors, some rounded to half precision
_TOKENS = "token_embedding.weight"
# The last linear map of a tower: its name, and whether it is applied as x @ m.
_LAST_OF_IMAGE = (
    ("proj", True),
    ("attnpool.c_proj", False),
    ("head.proj", False),
    ("head.mlp.fc2", False),
)
_LAST_OF_TEXT = (("text_projection", True), ("text_projection", False))


@dataclass(frozen=True)
class OpenClipFacts:
    """deviation: largest difference from our features. notices: sentences without full stop."""

    deviation: float
    notices: tuple[str, ...]


def refusal(content: CheckpointContent) -> str | None:
    """Why a model cannot be exported to open_clip; None if it can."""
    config = content.config
    image, text = config.image_encoder, config.text_encoder
    if image.family == text.family == "clip" and image.model == text.model:
        return next(_refusals_of_towers(content, image, text), None)
    if image.family != "clip":
        reason = f"its image encoder {image.written} is not an open_clip model"
    elif text.family in ("prompts", "none"):
        reason = f'its text encoder "{text.written}" is not a text tower and cannot read texts'
    elif text.family != "clip":
        reason = f"its text encoder {text.written} is not an open_clip tower"
    else:
        reason = f"its towers belong to two models, {image.model} and {text.model}"
    return f"{reason}; open_clip needs both towers of one open_clip model"


def _refusals_of_towers(
    content: CheckpointContent, image: EncoderSpec, text: EncoderSpec
) -> Iterator[str]:
    config = open_clip.get_model_config(image.model)
    if "multimodal_cfg" in config:
        yield f"{image.model} also has a caption decoder, which is not trained here"
    if config["text_cfg"].get("hf_model_name"):
        yield (
            f"the text tower of {image.model} is built by transformers from files of the hub, "
            "which a local folder cannot contain"
        )
    if not any(name.startswith("text_encoder.") for name in content.model):
        yield "it is an export without its text tower; export the checkpoint instead"
    quick = [clip_towers.model_config(spec, 1, 1)["quick_gelu"] for spec in (image, text)]
    if quick[0] != quick[1]:
        yield f"only one of its towers ({image.written}, {text.written}) uses QuickGELU"
    if _is_frozen(content) and text.weights == "scratch":
        yield "its text tower was random and frozen, and only its features were stored"
    if _last(content.model, "image_encoder.model.", _LAST_OF_IMAGE) is None:
        yield (
            f"the image tower of {image.model} does not end with a linear map, so open_clip has "
            "no place for the trained projection"
        )


def write_open_clip(content: CheckpointContent, source: Path, folder: Path) -> OpenClipFacts:
    """Write weights, configuration and, unless it is open_clip's own, the tokenizer.

    The folder is then loaded with open_clip, and the features of images and of class texts are
    compared. Raises UserError if the model cannot be exported, WeightsError if pretrained token
    embeddings are needed and not available, CheckpointError if open_clip's features differ.
    """
    if reason := refusal(content):
        raise UserError(f"{source} cannot be exported for open_clip: {reason}")
    config, image = content.config, content.config.image_encoder
    model_cfg = clip_towers.model_config(image, config.embed_dim, config.img_size)
    state, notices = _state(content, source, model_cfg)
    safetensors.torch.save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    preprocess = {
        "mean": content.transform.mean,
        "std": content.transform.std,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    write_json(folder / CONFIG_FILE, {"model_cfg": model_cfg, "preprocess_cfg": preprocess})
    _copy_tokenizer(config, folder)
    if content.transform.store_size != config.img_size:
        notices.append(
            f"open_clip's own transform resizes to {config.img_size} pixels; this model expects a "
            f"resize to {content.transform.store_size} and a centre crop, as README.md shows"
        )
    deviation = _deviation(content, folder)
    if not deviation <= MAX_DEVIATION:
        raise CheckpointError(
            f"{source}: open_clip's features differ from those of the trained model by "
            f"{deviation:.2g} (the limit is {MAX_DEVIATION:g}), so the export was deleted"
        )
    return OpenClipFacts(deviation, tuple(notices))


def _is_frozen(content: CheckpointContent) -> bool:
    return "text_encoder.features" in content.model


def _state(
    content: CheckpointContent, source: Path, model_cfg: Mapping[str, Any]
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights by open_clip's names with the projections multiplied in, and notices."""
    model = content.model
    visual = _part(model, "image_encoder.model.")
    _multiply_in(visual, model["image_projection.weight"], _LAST_OF_IMAGE)
    text, notices = _text_state(content)
    _multiply_in(text, model["text_projection.weight"], _LAST_OF_TEXT)
    prefix = "text." if model_cfg.get("custom_text") else ""
    state = {f"visual.{name}": tensor for name, tensor in visual.items()}
    state |= {f"{prefix}{name}": tensor for name, tensor in text.items()}
    shape = (1,) if model_cfg.get("nonscalar_logit_scale") else ()
    head = _text_head(content, source)
    if head is None:
        scale, bias = model["log_logit_scale"], torch.zeros(())
        notices.append(
            "its loss trained a classifier of its own, for which open_clip has no place: the "
            "exported features are the trained ones, predictions from class texts are not"
        )
    else:
        scale, bias = head.weight.norm(dim=1).mean().log(), head.bias.mean()
    state["logit_scale"] = scale.reshape(shape)
    if model_cfg.get("init_logit_bias") is not None:
        state["logit_bias"] = bias.reshape(shape)
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}, notices


def _text_head(content: CheckpointContent, source: Path) -> LinearHead | None:
    """The model's linear head, if it computes scaled cosines to the class texts."""
    fold = FoldClassifier.rebuild(content, source, torch.device("cpu"), FLOAT32)
    head, texts = linear_head(fold.classifier), content.class_features
    if head is None or head.on != "unit embedding" or texts is None:
        return None
    matches_texts = (F.normalize(head.weight, dim=1) - texts).abs().max() < SAME_DIRECTION
    return head if matches_texts else None


def _text_state(content: CheckpointContent) -> tuple[dict[str, Tensor], list[str]]:
    """State of the text tower with all V tokens, and notices."""
    spec = content.config.text_encoder
    if _is_frozen(content):
        return dict(_pretrained_text(content.config).items()), []
    text = _part(content.model, "text_encoder.tower.")
    vocabulary = content.model.get("text_encoder.vocabulary")
    if vocabulary is None:
        return text, []
    # Only the U tokens of the class texts were trained.
    if spec.weights == "pretrained":
        table, notices = _pretrained_text(content.config)[_TOKENS].clone(), []
    else:
        size, width = content.vocabulary_size, text[_TOKENS].shape[1]
        assert size is not None, "a text tower has a vocabulary"
        table = text[_TOKENS].new_zeros(size, width)
        notices = [
            f"only the {len(vocabulary)} of {size} tokens that occur in the class texts were "
            "trained; the others are zero, so other texts are meaningless to it"
        ]
    table[vocabulary] = text[_TOKENS]
    return {**text, _TOKENS: table}, notices


def _pretrained_text(config: RunConfig) -> dict[str, Tensor]:
    """State of the text tower before training. Raises WeightsError if it is not available."""
    spec = config.text_encoder
    directory = Path(config.weights_dir).expanduser() if config.weights_dir else None
    files = [one for one in clip_towers.assets(spec, "text") if not isinstance(one, Snapshot)]
    tower = clip_towers.text_tower(spec, obtain(files[0], spec, directory), None)
    return dict(tower.state_dict())


def _copy_tokenizer(config: RunConfig, folder: Path) -> None:
    """Save a transformers tokenizer in the folder, where open_clip expects it."""
    spec = config.text_encoder
    text_cfg = open_clip.get_model_config(spec.model)["text_cfg"]
    if not text_cfg.get("hf_tokenizer_name"):
        return
    directory = Path(config.weights_dir).expanduser() if config.weights_dir else None
    (asset,) = (one for one in clip_towers.assets(spec, "text") if isinstance(one, Snapshot))
    tokenizer = open_clip.tokenizer.HFTokenizer(
        str(obtain(asset, spec, directory)), local_files_only=True
    )
    tokenizer.save_pretrained(str(folder))


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): one for n, one in state.items() if n.startswith(prefix)}


def _last(
    state: Mapping[str, Tensor], prefix: str, candidates: Sequence[tuple[str, bool]]
) -> tuple[str, bool] | None:
    """A tower's last linear map, if it is a known one."""
    for name, from_left in candidates:
        if (prefix + name if from_left else f"{prefix}{name}.weight") in state:
            return name, from_left
    return None


def _multiply_in(
    state: dict[str, Tensor], projection: Tensor, candidates: Sequence[tuple[str, bool]]
) -> None:
    """Replace a tower's last linear map by its product with `projection` [D, E]."""
    found = _last(state, "", candidates)
    assert found is not None, "refused above"
    name, from_left = found
    if from_left:
        state[name] = (state[name].double() @ projection.double().T).float()
        return
    for parameter in ("weight", "bias"):
        if (key := f"{name}.{parameter}") in state:
            state[key] = (projection.double() @ state[key].double()).float()


@torch.no_grad()
def _deviation(content: CheckpointContent, folder: Path) -> float:
    """Largest difference between features of open_clip and of the trained model."""
    config = content.config
    ours = build_model(config, content.classes, content.prompts, state=content.model).eval()
    try:
        theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    except RuntimeError as error:
        raise UserError(
            f"open_clip cannot load this model with images of {config.img_size} pixels: "
            + " ".join(str(error).split())
        ) from None
    theirs.eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES_COMPARED, 3, config.img_size, config.img_size, generator=generator)
    pairs = [(theirs.encode_image(images, normalize=True), ours.image_features(images))]
    texts = [theirs.encode_text(tokenize(prompts), normalize=True) for prompts in content.prompts]
    means = torch.stack([F.normalize(one.mean(dim=0), dim=0) for one in texts])
    pairs.append((means, _class_features(ours)))
    return max(float((theirs - ours).abs().max()) for theirs, ours in pairs)


def _class_features(model: ImageTextModel) -> Tensor:
    features = class_features(model, FLOAT32)
    assert features is not None, "refused above"
    return features
