"""The family `timm`: image encoders of timm, without their classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from clip_pkg.base.errors import CheckpointError
from clip_pkg.config.encoders import EncoderSpec, Tower
from clip_pkg.models.assets import WeightsFile, both_formats
from clip_pkg.models.families import Recipe
from clip_pkg.models.image_encoder import ImageEncoder
from clip_pkg.models.state_dicts import mismatch, read_state_dict
from clip_pkg.models.weights import obtain

# Tensors of a user's file that the encoder ignores: classifiers and remains of pretraining.
_HEADS = ("fc.", "head", "classif", "last_linear.", "aux", "mask_token", "decoder")


def assets(spec: EncoderSpec, tower: Tower) -> tuple[WeightsFile, ...]:
    """The pretrained weights."""
    del tower
    if spec.weights == "scratch":
        return ()
    cfg = timm.models.get_pretrained_cfg(spec.model)
    base = spec.model.partition(".")[0]
    tagged = f"{base}.{cfg.tag}" if cfg.tag else base
    url = cfg.url[0] if isinstance(cfg.url, tuple) else cfg.url
    weights = WeightsFile(
        what=f"pretrained weights {tagged}",
        names=tuple(dict.fromkeys((spec.model, tagged, base))),
        repo=cfg.hf_hub_id.partition("@")[0] if cfg.hf_hub_id else None,
        filenames=both_formats(cfg.hf_hub_filename or "pytorch_model.bin"),
        url=url or None,
        architecture=base,
        scratch=f"{base}:scratch",
    )
    return (weights,)


def build_image(spec: EncoderSpec, img_size: int, weights_dir: Path | None) -> ImageEncoder:
    """Build the encoder; see `FamilyModule`."""
    cfg = timm.models.get_pretrained_cfg(spec.model)
    size = {"img_size": img_size} if cfg.fixed_input_size else {}
    model: Any
    if needed := assets(spec, "image"):
        weights = obtain(needed[0], spec, weights_dir)
        users_own = weights_dir is not None and weights.is_relative_to(weights_dir)
        model = _loaded_model(spec, size, weights, users_own=users_own)
    else:
        model = timm.create_model(spec.model, pretrained=False, num_classes=0, **size)
    features = int(getattr(model, "head_hidden_size", None) or model.num_features)
    return ImageEncoder(model, features, cfg.mean, cfg.std)


def recipe(spec: EncoderSpec, img_size: int) -> Recipe:
    """Call of `timm.create_model`."""
    options = {"num_classes": 0}
    if timm.models.get_pretrained_cfg(spec.model).fixed_input_size:
        options["img_size"] = img_size
    call = 'timm.create_model(encoder["model"], **encoder["options"])'
    return Recipe("timm", spec.model, options, call)


def _loaded_model(
    spec: EncoderSpec, size: dict[str, int], weights: Path, *, users_own: bool
) -> nn.Module:
    """Let timm adapt names and position embeddings of a file, then check that all was loaded.

    timm only logs names without a match. Published files may lack norm scales and biases, which
    start as the identity, but not matrices and kernels.
    """
    state = read_state_dict(weights)
    overlay = {"state_dict": state}
    try:
        with _recorded_loads() as reports:
            model = timm.create_model(
                spec.model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **size
            )
    except Exception as error:  # timm's filters raise any error on foreign files
        raise CheckpointError(f"{weights}: does not fit {spec.model}: {error}") from error
    model.pretrained_cfg.pop("state_dict")  # timm would keep a second copy
    missing, unexpected = reports[-1] if reports else ([], [])
    own = model.state_dict()
    missing = [name for name in missing if users_own or own[name].ndim > 1]
    unexpected = [name for name in unexpected if users_own and not name.startswith(_HEADS)]
    if missing or unexpected:
        raise CheckpointError(mismatch(str(weights), missing, unexpected))
    loaded: nn.Module = model
    return loaded


@contextmanager
def _recorded_loads() -> Iterator[list[tuple[list[str], list[str]]]]:
    """Missing and unexpected names of each `load_state_dict`; the whole model comes last."""
    reports: list[tuple[list[str], list[str]]] = []
    watched: dict[nn.Module, None] = {}

    def note(_module: nn.Module, keys: Any) -> None:
        reports.append((list(keys.missing_keys), list(keys.unexpected_keys)))

    def watch(parent: nn.Module, _name: str, _child: nn.Module | None) -> None:
        if parent not in watched:
            watched[parent] = None
            handles.append(parent.register_load_state_dict_post_hook(note))  # type: ignore[no-untyped-call]  # torch's

    handles = [register_module_module_registration_hook(watch)]
    try:
        yield reports
    finally:
        for handle in handles:
            handle.remove()
