"""A machine without network and with empty caches, and CLIP models that are built at once."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants

from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.models import hub

VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TINY_CLIPS: dict[str, dict[str, Any]] = {
    "tiny-causal": {},
    "tiny-custom": {"custom_text": True},
    "tiny-eos": {"custom_text": True, "text": {"pool_type": "eos", "eos_id": 49407}},
    "tiny-bidirectional": {"custom_text": True, "text": {"no_causal_mask": True}},
    "tiny-class-token": {"custom_text": True, "text": {"embed_cls": True, "context_length": 76}},
}


@pytest.fixture(scope="session", autouse=True)
def tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Teach open_clip a few tiny models, one per kind of text tower."""
    folder = tmp_path_factory.mktemp("model_configs")
    for name, config in TINY_CLIPS.items():
        content = {
            "embed_dim": 16,
            "vision_cfg": VISION,
            "text_cfg": TEXT | config.get("text", {}),
            "custom_text": config.get("custom_text", False),
        }
        (folder / f"{name}.json").write_text(json.dumps(content))
    open_clip.add_model_config(folder)


@pytest.fixture
def saved_clip(tmp_path: Path) -> Callable[[str], tuple[Any, Path]]:
    """Make a whole tiny CLIP with random weights: the model, and the file with its weights."""

    def save(name: str) -> tuple[Any, Path]:
        torch.manual_seed(1)
        model = open_clip.create_model(name).eval()
        path = tmp_path / f"{name}.pt"
        torch.save(model.state_dict(), path)
        return model, path

    return save


def clip_spec(name: str, weights: str = "pretrained") -> EncoderSpec:
    """Spec of a tiny model, which the config's own table does not know."""
    return EncoderSpec("clip", name, weights, None, f"clip:{name}")  # type: ignore[arg-type]


@pytest.fixture
def tiny_spec() -> Callable[..., EncoderSpec]:
    return clip_spec


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point all caches of weights at an empty folder."""
    caches = tmp_path / "caches"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(caches / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HOME", str(caches))
    monkeypatch.setenv("TORCH_HOME", str(caches / "torch"))
    return caches


@pytest.fixture
def no_network(empty_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Refuse every connection at once, and forget what was known of the hub."""

    def refuse(*_args: object, **_keywords: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    hub.is_reachable.cache_clear()
    yield empty_caches
    hub.is_reachable.cache_clear()
