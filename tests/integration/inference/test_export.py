"""Exports as other programs meet them: what they hold, and whether they say what `predict` says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from integration.inference.conftest import read_table
from safetensors.torch import load_file, save_file

from clip_pkg.cli import main
from clip_pkg.config.losses import LOSSES
from clip_pkg.data.pixel_blocks import squash
from clip_pkg.inference.export import onnx_file
from clip_pkg.inference.export import publication as formats
from clip_pkg.inference.export.onnx_file import FLOAT32, linear_head
from clip_pkg.inference.fold_classifier import FoldClassifier, read_content
from clip_pkg.study.decoding import decode_image

ONE = "grün/003.png"


@pytest.fixture
def export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `export` into `tmp_path / "exported"`; returns what was printed."""

    def call(model: Path, *words: str, check: int = 0) -> str:
        code = main(["export", str(model), "--output", str(tmp_path / "exported"), *words])
        shown = capsys.readouterr()
        assert code == check, shown.out + shown.err
        assert "Traceback" not in shown.out + shown.err
        return shown.out + shown.err

    return call


@pytest.fixture
def card_says(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], dict[str, Any]]:
    """Run the lines of the model card on one image; returns the variables that they leave."""

    def run() -> dict[str, Any]:
        folder = tmp_path / "exported"
        card = (folder / "README.md").read_text(encoding="utf-8")
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        shutil.copy(images / ONE, folder / "image.png")
        monkeypatch.chdir(folder)
        found: dict[str, Any] = {}
        exec(code, found)
        return found

    return run


@pytest.fixture
def answers(images: Path, tmp_path: Path, predict: Callable[..., str]) -> Callable[[Path], Any]:
    """What `predict` says about the one image, [C]."""

    def ask(model: Path) -> Any:
        file = tmp_path / "answers.json"
        predict(model, "--images", images / ONE, "--output", file)
        return read_table(file).probabilities[0]

    return ask


def about(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def in_float32(config: Path) -> FoldClassifier:
    """The first fold, computing as exports do and not in what this CPU is fast in."""
    source = config / "fold_1/checkpoint_best.pth"
    return FoldClassifier.rebuild(read_content(source), source, torch.device("cpu"), FLOAT32)


def test_onnx_of_all_folds_says_what_predict_says(
    run: Path,
    tmp_path: Path,
    export: Callable[..., str],
    answers: Callable[[Path], Any],
    card_says: Callable[[], dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = export(run / "folds")
    assert "Largest deviation of onnxruntime from torch" in shown
    folder = tmp_path / "exported"
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "config.json", "README.md"}
    said = card_says()
    wanted = answers(run / "folds")
    np.testing.assert_allclose(said["probabilities"][0], wanted, atol=1e-4)
    logits = torch.tensor(said["logits"][0])
    np.testing.assert_allclose(logits.softmax(0).numpy(), wanted, atol=1e-4)
    assert said["embedding"].shape == (1, 3 * 16)
    assert np.linalg.norm(said["embedding"][0]) == pytest.approx(1, abs=1e-5)
    several = said["session"].run(None, {"pixels": np.repeat(said["pixels"], 4, axis=0)})
    np.testing.assert_allclose(several[0], np.repeat(said["probabilities"], 4, axis=0), atol=1e-5)
    assert said["about"]["classes"] == ["blue sky", "grün", "red"]
    assert said["about"]["transform"] == about(folder)["transform"]
    told = about(folder)
    assert told["onnx"]["input"]["pixels"] == ["batch", 37, 37, 3]
    assert told["onnx"]["largest_deviation_from_torch"] < 1e-4
    assert [one["part"] for one in told["models"]] == ["fold 1", "fold 2", "fold 3"]
    assert told["models"][0]["training_images"]["red"] in (9, 10)
    card = (folder / "README.md").read_text(encoding="utf-8")
    summary = json.loads((run / "folds/cv_summary.json").read_text(encoding="utf-8"))
    averages = summary["average_results"]
    mean = f"{averages['avg_val_acc']:.2f} ± {averages['std_val_acc']:.2f}"
    assert f"| mean ± SD of 3 | {mean} |" in card
    assert summary["data_fingerprint"] in card
    assert card.count("| fold ") == 3
    assert "The ensemble was not evaluated" in card
    assert "{{" not in card
    assert "Licence" in card


def test_onnx_of_a_transformer_with_a_linear_classifier(
    images: Path,
    tmp_path: Path,
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    export: Callable[..., str],
    answers: Callable[[Path], Any],
    card_says: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = {
        "name": "vit",
        "image_encoder_name": "test_vit:scratch",
        "text_encoder_name": "none",
        "loss": {"type": "ce", "classifier": "linear"},
        "use_cv": False,
        "use_amp": False,
        "epochs": 1,
    }
    train("--config-file", write_configs(config))
    export(tmp_path / "out/vit/fold_1", "--format", "onnx")
    np.testing.assert_allclose(
        card_says()["probabilities"][0], answers(tmp_path / "out/vit"), atol=1e-4
    )
    # The graph that answers differently leaves nothing behind.
    shutil.rmtree(tmp_path / "exported")
    monkeypatch.setattr(onnx_file, "_deviations", lambda *_: {"logits": float("nan")})
    shown = export(tmp_path / "out/vit/fold_1", check=2)
    assert "disagree (logits nan" in shown
    assert not [path for path in tmp_path.iterdir() if "exported" in path.name]


@pytest.mark.parametrize(
    "name", ["clip", "linear", "no_text", "proxy", "siglip", "frozen", "cifar_stem"]
)
def test_safetensors_say_what_predict_says(
    name: str,
    run: Path,
    images: Path,
    tmp_path: Path,
    export: Callable[..., str],
    answers: Callable[[Path], Any],
    card_says: Callable[[], dict[str, Any]],
) -> None:
    export(run / name, "--format", "safetensors")
    folder = tmp_path / "exported"
    fold = in_float32(run / name)
    square = squash(decode_image(images / ONE), fold.store_size)
    said = card_says()["probabilities"].numpy()
    np.testing.assert_allclose(said, fold.probabilities(square[None]), atol=1e-4)
    wanted = answers(run / name)
    for model in (folder, folder / "model.safetensors"):
        assert np.array_equal(answers(model), wanted)
    state = load_file(folder / "model.safetensors")
    assert not [key for key in state if key.startswith("text_")]
    assert about(folder)["models"][0]["head"] == (
        "embedding" if name == "linear" else "unit embedding"
    )


def test_safetensors_of_all_folds(
    run: Path, tmp_path: Path, export: Callable[..., str], answers: Callable[[Path], Any]
) -> None:
    export(run / "folds", "--format", "safetensors")
    folder = tmp_path / "exported"
    files = [one["file"] for one in about(folder)["models"]]
    assert files == [f"model_fold_{number}.safetensors" for number in (1, 2, 3)]
    assert np.array_equal(answers(folder), answers(run / "folds"))
    assert np.array_equal(answers(folder / files[1]), answers(run / "folds/fold_2"))


def test_safetensors_of_elsewhere_are_refused(
    images: Path, tmp_path: Path, predict: Callable[..., str]
) -> None:
    weights = {"image_encoder.x": torch.ones(2)}
    foreign, old, broken = (tmp_path / f"{name}.safetensors" for name in ("foreign", "old", "b"))
    save_file(weights, foreign)
    save_file(weights, old, metadata={"clip_pkg": json.dumps({"format_version": 0})})
    broken.write_bytes(b"no such file")
    for file, piece in (
        (foreign, "not an export of this program"),
        (old, "another version"),
        (broken, "is damaged"),
    ):
        assert piece in predict(file, "--images", images, check=2)


@pytest.mark.parametrize("name", [*LOSSES, "linear", "no_text", "weighted", "learned"])
def test_every_classifier_comes_down_to_a_linear_layer(name: str, run: Path) -> None:
    fold = in_float32(run / name)
    head = linear_head(fold.classifier)
    assert head is not None
    embeddings = 5 * torch.randn(7, 16, generator=torch.Generator().manual_seed(3))
    rows = F.normalize(embeddings) if head.on == "unit embedding" else embeddings
    with torch.no_grad():
        wanted = fold.classifier.logits(embeddings)
    torch.testing.assert_close(F.linear(rows, head.weight, head.bias), wanted, atol=2e-4, rtol=1e-4)


def test_a_card_without_results_says_so(
    run: Path, tmp_path: Path, export: Callable[..., str]
) -> None:
    alone = tmp_path / "alone.pth"
    shutil.copy(run / "clip/fold_1/checkpoint_best.pth", alone)
    export(alone, "--format", "safetensors")
    card = (tmp_path / "exported/README.md").read_text(encoding="utf-8")
    assert "No cross-validated result" in card
    assert "Accuracy" not in card
    assert "the model of fold 1" in card


def test_what_cannot_be_exported_is_a_sentence(
    run: Path, tmp_path: Path, export: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/mine.txt").write_text("mine")
    assert "is not empty" in export(run / "clip", check=2)
    (tmp_path / "exported/mine.txt").unlink()
    assert "no such checkpoint" in export(tmp_path / "nowhere", check=2)
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnx" else name)
    assert 'needs onnx: pip install "clip_pkg[onnx]"' in export(run / "clip", check=2)
    shown = export(run / "folds", "--format", "open_clip", check=2)
    assert "contains one model, and these are 3 folds" in shown
    shown = export(run / "clip", "--format", "safetensors", "--push-to-hub", "../x", check=2)
    assert "use OWNER/NAME" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]
    assert not list((tmp_path / "exported").iterdir())
