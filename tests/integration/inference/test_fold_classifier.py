"""What a checkpoint must hold to be used, and what is said of one that cannot be."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_pkg.base.errors import CheckpointError
from clip_pkg.config.schema import RunConfig
from clip_pkg.inference.fold_classifier import FoldClassifier
from clip_pkg.models.image_text import build_model

CPU = torch.device("cpu")


def content(run: Path, name: str = "proxy", which: str = "best") -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(
        run / name / f"fold_1/checkpoint_{which}.pth", weights_only=True
    )
    return loaded


@pytest.mark.parametrize("which", ["best", "latest"])
@pytest.mark.parametrize("name", ["folds", "superclip_tokens", "frozen", "learned"])
def test_the_class_features_are_those_of_the_text_side_in_the_same_file(
    name: str, which: str, run: Path
) -> None:
    state = content(run, name, which)
    config = RunConfig.model_validate(state["config"])
    model = build_model(config, state["classes"], state["prompts"], state=state["model"]).eval()
    with torch.no_grad():
        assert torch.equal(model.mean_class_features(), state["class_features"])


@pytest.mark.parametrize("name", ["superclip_tokens", "frozen", "learned", "no_text"])
def test_no_text_tower_is_built(name: str, run: Path) -> None:
    fold = FoldClassifier.load(run / name / "fold_1/checkpoint_best.pth", CPU)
    assert fold.classifier.model.text_encoder is None
    assert not fold.classifier.model.training
    assert not fold.classifier.objective.training


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {name: value for name, value in state.items() if name != key}


def having(key: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {**state, key: change(state[key])}


def setting(**values: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda old: {**old, **values}


@pytest.mark.parametrize(
    ("change", "piece"),
    [
        (without("class_features"), "class_features: Field required"),
        (without("class_counts"), "class_counts: Field required"),
        (without("format_version"), "format_version is missing"),
        (having("format_version", lambda _: 99), "format 99"),
        (having("class_features", lambda _: None), "class features do not match"),
        (having("class_features", lambda old: old[:2]), "class features do not match"),
        (having("class_counts", lambda old: old[:2]), "class counts do not match"),
        (having("classes", lambda _: "abc"), "classes: "),
        (having("model", lambda _: [1]), "model: "),
        (having("model", without("log_logit_scale")), "missing (1): log_logit_scale"),
        (having("objective", lambda _: {}), "missing (1): main.proxies"),
        (having("config", setting(loss={"type": "unknown"})), "config.loss"),
        (having("config", setting(image_encoder_name="resnet18")), "does not fit the model"),
        (having("config", setting(later_setting=1)), "config.later_setting"),
        (having("transform", setting(store_size=99)), "prepared in a way"),
    ],
)
def test_a_checkpoint_that_lacks_or_contradicts_something_is_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]], piece: str, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "changed.pth"
    torch.save(change(content(run)), path)
    with pytest.raises(CheckpointError) as caught:
        FoldClassifier.load(path, CPU)
    assert piece in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_answers_with_nan_is_told(run: Path, tmp_path: Path) -> None:
    state = content(run)
    state["model"]["image_projection.weight"] *= float("nan")
    torch.save(state, tmp_path / "nan.pth")
    fold = FoldClassifier.load(tmp_path / "nan.pth", CPU)
    with pytest.raises(CheckpointError, match="NaN"):
        fold.probabilities(torch.zeros(2, 32, 32, 3, dtype=torch.uint8).numpy())


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("command", ["predict", "explain", "embed"])
@pytest.mark.parametrize("kind", ["hostile", "cut off", "text", "empty", "folder", "output folder"])
def test_models_that_are_none(
    kind: str,
    command: str,
    run: Path,
    images: Path,
    use: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    if kind == "hostile":
        torch.save({**content(run), "extra": Evil()}, path)
    elif kind == "cut off":
        path.write_bytes((run / "clip/fold_1/checkpoint_best.pth").read_bytes()[:-4000])
    elif kind == "text":
        path.write_text("epoch,loss\n1,2\n")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    else:
        path = run
    target = {"predict": "answers.csv", "explain": "maps", "embed": "features.npz"}[command]
    shown = use(command, path, "--images", images, "--output", tmp_path / target, check=2)
    assert not (tmp_path / target).exists()
    assert str(path) in shown
    assert shown.count("error: ") == 1
    assert len(shown.strip().splitlines()) == 1
    assert not (tmp_path / "pwned").exists()
