"""Exports for open_clip, loaded by open_clip itself: equal features, or a sentence why not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from integration.inference.conftest import read_table
from safetensors.torch import load_file

from clip_pkg.base.errors import CheckpointError, UserError
from clip_pkg.cli import main
from clip_pkg.config import encoders
from clip_pkg.config.schema import RunConfig
from clip_pkg.inference.export import open_clip_folder
from clip_pkg.inference.export.onnx_file import FLOAT32
from clip_pkg.inference.export.open_clip_folder import refusal, write_open_clip
from clip_pkg.inference.fold_classifier import CheckpointContent
from clip_pkg.models.classifier import class_features, objective_for
from clip_pkg.models.image_text import build_model
from clip_pkg.study.identity import Identity
from support.tiny import TINY

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
# One per way in which open_clip ends its towers, and those whose end has no room for a projection.
MODELS: dict[str, dict[str, Any]] = {
    "our-vit": {},
    "our-resnet": {"vision_cfg": RESNET, "custom_text": True, "quick_gelu": True},
    "our-timm": {"vision_cfg": TIMM, "init_logit_bias": -10, "nonscalar_logit_scale": True},
    "our-bias": {"text_cfg": {**TEXT, "proj_bias": True, "no_causal_mask": True}},
    "our-pool": {"vision_cfg": {**TIMM, "timm_proj": "none", "timm_pool": "avg"}, "embed_dim": 64},
    "our-coca": {"multimodal_cfg": {**TEXT, "context_length": 76}, "custom_text": True},
    "our-bert": {"text_cfg": {"hf_model_name": "some/bert", "hf_tokenizer_name": "some/bert"}},
}
CLASSES, PROMPTS = ["a", "b"], [["a photo of a cat", "a cat"], ["some dogs"]]


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Teach open_clip, and the check of configs, tiny models."""
    folder = tmp_path_factory.mktemp("model_configs")
    for name, changes in MODELS.items():
        config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, **changes}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    known = {**encoders.open_clip_tags(), **dict.fromkeys(MODELS, ("random",))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "open_clip_tags", lambda: known)
        yield


def content(image: str, text: str = "", *, loss: str = "clip", **changes: Any) -> CheckpointContent:
    """What a checkpoint of an untrained model would hold."""
    names = {"image_encoder_name": image, "text_encoder_name": text or image}
    config = RunConfig.model_validate({**TINY, **names, "loss": {"type": loss}, **changes})
    torch.manual_seed(0)
    model = build_model(config, CLASSES, PROMPTS).eval()
    objective = objective_for(config, [3, 4], model.vocabulary_size)
    with torch.no_grad():
        features = class_features(model, FLOAT32)
    return CheckpointContent.model_validate(
        {
            "identity": asdict(Identity("c", "d", "s", "t")),
            "fold": 1,
            "epoch": 1,
            "config": config.model_dump(mode="json"),
            "classes": CLASSES,
            "prompts": PROMPTS,
            "class_counts": [3, 4],
            "vocabulary_size": model.vocabulary_size,
            "transform": {
                "store_size": config.img_size,
                "mean": list(model.image_encoder.mean),
                "std": list(model.image_encoder.std),
            },
            "model": model.checkpoint_state(),
            "objective": dict(objective.state_dict()),
            "class_features": features,
        }
    )


@pytest.mark.parametrize(
    ("name", "size", "loss"),
    [
        ("our-vit", 48, "superclip"),
        ("our-resnet", 64, "supcon"),
        ("our-timm", 160, "siglip"),
        ("our-bias", 32, "proxy"),
    ],
)
def test_open_clip_gives_the_features_of_the_trained_model(
    name: str, size: int, loss: str, tmp_path: Path
) -> None:
    """The projections disappear in the towers, into a joint space of another size than theirs."""
    ours = content(f"clip:{name}:scratch", loss=loss, img_size=size)
    facts = write_open_clip(ours, tmp_path / "x.pth", tmp_path)
    assert facts.deviation < 1e-5
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    theirs.eval()
    model = build_model(ours.config, CLASSES, PROMPTS, state=ours.model).eval()
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(5))
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(PROMPTS[0])
    with torch.no_grad():
        found = theirs.encode_image(images, normalize=True)
        texts = F.normalize(theirs.encode_text(tokens, normalize=True).mean(dim=0), dim=0)
        torch.testing.assert_close(found, model.image_features(images), atol=1e-5, rtol=0)
        torch.testing.assert_close(texts, model.mean_class_features()[0], atol=1e-5, rtol=0)
    assert found.shape == (3, 16)
    scale = {"supcon": 1 / 0.1, "proxy": 1 / 0.07}.get(loss, 1 / ours.config.temperature)
    assert float(theirs.logit_scale.detach().exp()) == pytest.approx(scale, rel=1e-3)
    if loss == "siglip":
        assert float(theirs.logit_bias.detach()) == pytest.approx(-10, abs=1e-3)
    assert any("classifier of its own" in notice for notice in facts.notices) == (loss == "proxy")
    assert any("others are zero" in notice for notice in facts.notices)
    assert f"size=({size}, {size})" in str(preprocess)


def test_trained_with_pretrained_towers_from_the_command_line(
    images: Path,
    tmp_path: Path,
    train: Callable[..., str],
    predict: Callable[..., str],
    write_configs: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tokens that no class text has keep their pretrained rows; the card's lines work."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    torch.manual_seed(1)
    pretrained = open_clip.create_model("our-vit").state_dict()
    (tmp_path / "weights").mkdir()
    torch.save(pretrained, tmp_path / "weights/our-vit.pt")
    towers = dict.fromkeys(("image_encoder_name", "text_encoder_name"), "clip:our-vit:random")
    config = {**towers, "weights_dir": str(tmp_path / "weights"), "use_cv": False, "use_amp": False}
    changes = [{"name": "whole"}, {"name": "frozen", "freeze_text_encoder": True}]
    configs = write_configs(*({**config, "epochs": 1, **change} for change in changes))
    train("--config-file", configs, "--multi-config")
    folder = tmp_path / "exported"
    for name in ("whole", "frozen"):
        words = ["--format", "open_clip", "--output", str(folder)]
        assert main(["export", str(tmp_path / "out" / name), *words]) == 0
        state = load_file(folder / "open_clip_model.safetensors")
        key = "token_embedding.weight"
        changed = (state[key] != pretrained[key]).any(dim=1)
        assert 0 < changed.sum() < 10 if name == "whole" else not changed.any()
        (code,) = re.findall(
            r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL
        )
        shutil.copy(images / "red/001.png", folder / "image.png")
        monkeypatch.chdir(folder)
        found: dict[str, Any] = {}
        exec(code, found)
        answers = tmp_path / "answers.json"
        predict(tmp_path / "out" / name, "--images", images / "red/001.png", "--output", answers)
        wanted = read_table(answers).probabilities[0]
        np.testing.assert_allclose(found["probabilities"][0].numpy(), wanted, atol=1e-4)
        shutil.rmtree(folder)
    (tmp_path / "weights/our-vit.pt").unlink()
    assert main(["export", str(tmp_path / "out/whole"), *words]) == 2
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changes", "piece"),
    [
        (
            {"image": "test_resnet:scratch", "text": "clip:our-vit:scratch"},
            "is not an open_clip model",
        ),
        ({"image": "clip:our-vit:scratch", "text": "prompts"}, "cannot read texts"),
        ({"image": "clip:our-vit:scratch", "text": "clip:our-bias:scratch"}, "two models"),
        ({"image": "clip:our-pool:scratch", "img_size": 160}, "does not end with a linear map"),
        ({"image": "clip:our-coca:scratch"}, "caption decoder"),
        ({"image": "clip:our-vit:scratch", "freeze_text_encoder": True}, "random and frozen"),
    ],
)
def test_why_it_is_impossible(changes: dict[str, Any], piece: str, tmp_path: Path) -> None:
    ours = content(**changes)
    with pytest.raises(UserError, match=piece):
        write_open_clip(ours, tmp_path / "x.pth", tmp_path / "none")


def test_why_models_that_cannot_be_built_here_are_impossible() -> None:
    ours = content("clip:our-vit:scratch")

    def with_text(name: str, image: str = "clip:our-vit:scratch") -> CheckpointContent:
        names = {"image_encoder_name": image, "text_encoder_name": name}
        return ours.model_copy(update={"config": ours.config.model_copy(update=names)})

    assert "not an open_clip tower" in str(refusal(with_text("hf:some/bert")))
    bert = "clip:our-bert:scratch"
    assert "built by transformers" in str(refusal(with_text(bert, bert)))
    image_side = {name: one for name, one in ours.model.items() if name.startswith("image")}
    assert "without its text tower" in str(refusal(ours.model_copy(update={"model": image_side})))
    assert refusal(ours) is None


def test_a_size_that_open_clip_does_not_load_is_a_sentence(tmp_path: Path) -> None:
    ours = content("clip:our-timm:scratch", img_size=128)
    with pytest.raises(UserError, match="open_clip cannot load this model with images of 128"):
        write_open_clip(ours, tmp_path / "x.pth", tmp_path)


def test_other_features_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = content("clip:our-vit:scratch")
    monkeypatch.setattr(open_clip_folder, "_deviation", lambda *_: 2e-5)
    with pytest.raises(CheckpointError, match="features differ"):
        write_open_clip(ours, tmp_path / "x.pth", tmp_path)
