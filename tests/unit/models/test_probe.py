from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from clip_pkg.models.probe import main, probe

ROOT = Path(__file__).resolve().parents[3]


def request(**changes: Any) -> dict[str, Any]:
    return {
        "image_encoder_name": "test_resnet:scratch",
        "text_encoder_name": "prompts",
        "img_size": 32,
        "weights_dir": None,
    } | changes


def test_the_child_process_answers_in_json_alone(tmp_path: Path) -> None:
    requests = [request(), request(img_size=64), request(image_encoder_name="test_resnett")]
    found = subprocess.run(
        [sys.executable, "-m", "clip_pkg.models.probe"],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"HF_HOME": str(tmp_path)},
        check=True,
    )
    (problem,) = json.loads(found.stdout)
    assert problem["encoder"] == "test_resnett"
    assert problem["kind"] == "unknown"
    assert "test_resnet" in problem["message"]
    assert problem["requests"] == [2]


def test_main_reads_and_writes_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps([request()])))
    assert main([]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("clip:ViT-B-32:scratch", 30),
        ("maxvit_tiny_tf_224:scratch", 100),
        ("test_vit_relpos:scratch", 8),
        ("deepseek_vit_412m_enc:scratch", 224),
    ],
)
def test_sizes_and_models_that_do_not_work_are_found(name: str, size: int) -> None:
    (problem,) = probe([request(image_encoder_name=name, img_size=size)])
    assert problem.kind == "img_size"
    assert f"{name} does not work with img_size {size}: " in problem.message


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18:scratch", 8),
        ("test_vit:scratch", 64),
        ("swin_tiny_patch4_window7_224:scratch", 96),
        ("clip:RN50:scratch", 96),
        ("clip:ViT-B/32:scratch", 224),
        ("clip:convnext_base:scratch", 64),
        ("clip:ViT-B-16-SigLIP:scratch", 96),
    ],
)
def test_sizes_that_work_are_let_through(name: str, size: int) -> None:
    assert probe([request(image_encoder_name=name, img_size=size)]) == []


def test_a_stem_is_built_as_it_will_be() -> None:
    assert probe([request(image_encoder_name="resnet10t:scratch", stem="cifar")]) == []
    (problem,) = probe([request(image_encoder_name="test_vit:scratch", img_size=48, stem="cifar")])
    assert "stem" in problem.message


def test_a_model_that_cannot_be_built_without_memory_is_built_for_real(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clip_pkg.models import probe as module

    build = module.build_image_encoder

    def peeking(*args: Any, **options: Any) -> Any:
        float(torch.linspace(0, 1, 3).sum())  # impossible on the meta device
        return build(*args, **options)

    monkeypatch.setattr(module, "build_image_encoder", peeking)
    assert probe([request()]) == []


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("fetch", [False, True])
def test_missing_weights_are_reported_once_with_all_who_asked(fetch: bool) -> None:
    requests = [
        request(image_encoder_name="resnet18", text_encoder_name="clip:ViT-B/32"),
        request(),
        request(image_encoder_name="resnet18", img_size=64),
        request(text_encoder_name="bert-base-chinese"),
    ]
    problems = probe(requests, fetch=fetch)
    assert [(p.encoder, p.kind, p.requests) for p in problems] == [
        ("resnet18", "weights", (0, 2)),
        ("clip:ViT-B/32", "weights", (0,)),
        ("bert-base-chinese", "weights", (3,)),
    ]


def test_weights_that_are_here_are_fitted(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    path = tmp_path / "test_resnet.safetensors"
    safetensors.torch.save_file(state, path)
    asked = request(image_encoder_name="test_resnet", weights_dir=str(tmp_path))
    assert probe([asked]) == []
    state.pop("stages.0.0.conv1.weight" if "stages.0.0.conv1.weight" in state else "conv1.0.weight")
    safetensors.torch.save_file(state, path)
    (problem,) = probe([asked])
    assert problem.kind == "weights"
    assert "missing (1)" in problem.message
    torch.save([1], path.with_suffix(".pt"))
    path.unlink()
    (problem,) = probe([asked])
    assert "no named tensors" in problem.message


def test_a_missing_extra_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (problem,) = probe([request(text_encoder_name="bert-base-chinese")])
    assert problem.kind == "extra"
    assert "clip_pkg[hf]" in problem.message
