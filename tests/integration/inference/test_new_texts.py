"""`predict --class-texts`: other classes, read by the text side of the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from integration.inference.conftest import ONE_FOLD, read_table
from torch import Tensor

from clip_pkg.cli import main
from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.config.schema import RunConfig
from clip_pkg.inference.fold_classifier import FoldClassifier
from clip_pkg.inference.new_texts import with_class_texts
from clip_pkg.study.class_texts import ClassTexts
from support.tiny import TINY

CPU = torch.device("cpu")
NEW = {"stripes": ["a photo of thin stripes", "zebra"], "sky": "the evening sky", "x": "unheard"}
TEXTS = ClassTexts(
    tuple(NEW), (("a photo of thin stripes", "zebra"), ("the evening sky",), ("unheard",)), "", ()
)
PAIR = EncoderSpec("clip", "tiny-reader", "pretrained", None, "clip:tiny-reader")


def write(path: Path, texts: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(texts), encoding="utf-8")
    return path


def test_the_trained_texts_give_the_trained_answers(
    run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    model = run / "superclip_tokens"
    own = json.loads((model / "class_texts.json").read_text(encoding="utf-8"))["texts"]
    names = list(own)
    texts = write(tmp_path / "texts.json", {name: own[name] for name in reversed(names)})
    words = ["--images", images, "--output"]
    predict(model, *words, tmp_path / "plain.csv")
    predict(model, *words, tmp_path / "read.csv", "--class-texts", texts)
    plain, read = (read_table(tmp_path / f"{name}.csv") for name in ("plain", "read"))
    assert read.columns[2:] == plain.columns[2:][::-1]
    assert read.predictions == plain.predictions
    np.testing.assert_allclose(read.probabilities[:, ::-1], plain.probabilities, atol=1e-5)
    table = ["--out-of-fold", "--class-texts", texts]
    predict(model, *words, tmp_path / "held_out.csv", *table)
    held_out = read_table(tmp_path / "held_out.csv")
    wanted = read_table(model / "fold_1/predictions.csv")
    np.testing.assert_allclose(held_out.probabilities[:, ::-1], wanted.probabilities, atol=1e-5)


def test_known_words_in_a_new_order(run: Path, images: Path, predict: Callable[..., str]) -> None:
    texts = ClassTexts(("a", "b"), (("red sky",), ("blue grün", "sky")), "", ())
    fold = FoldClassifier.load(run / "superclip_tokens/fold_1/checkpoint_best.pth", CPU)
    other = with_class_texts(fold, texts)
    assert other.classes == ("a", "b")
    assert other.classifier.class_features.shape == (2, 16)
    pixels = np.zeros((2, fold.store_size, fold.store_size, 3), dtype=np.uint8)
    np.testing.assert_allclose(other.probabilities(pixels).sum(axis=1), 1)
    assert fold.classes != other.classes


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("superclip_tokens", "words of its own class texts only"),
        ("frozen", "frozen at random weights"),
        ("learned", "learned one vector per class"),
        ("clip", "learned one vector per class"),
        ("no_text", "has no text encoder"),
    ],
)
def test_models_that_cannot_read_new_texts(
    name: str, piece: str, run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    texts = write(tmp_path / "texts.json", NEW)
    assert piece in predict(run / name, "--images", images, "--class-texts", texts, check=2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teach open_clip a tiny model, and write weights for it."""
    folder = tmp_path_factory.mktemp("pair")
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    content = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (folder / "tiny-reader.json").write_text(json.dumps(content))
    open_clip.add_model_config(folder / "tiny-reader.json")
    torch.manual_seed(3)
    torch.save(open_clip.create_model("tiny-reader").state_dict(), folder / "tiny-reader.pt")
    return folder


@pytest.fixture
def reader(
    pair: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Train with a pretrained text tower; returns the config's folder."""
    monkeypatch.setattr(RunConfig, "text_encoder", property(lambda _: PAIR))
    monkeypatch.setattr("clip_pkg.models.probe.probe", lambda _: [])  # it reads names
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def train(**changes: Any) -> Path:
        config = {**TINY, **ONE_FOLD, "text_encoder_name": "clip:ViT-B/32", "name": "reader"}
        config |= {"weights_dir": str(pair), "text_lr_scale": 10.0, "batch_size": 4, **changes}
        file = write(tmp_path / "config.json", [config])  # type: ignore[arg-type]
        words = ["--data-dir", images, "--output-dir", tmp_path / "out", "--executor", "inline"]
        words += ["--log-dir", tmp_path / "logs", "--config-file", file, "--multi-config"]
        assert main([str(word) for word in words]) == 0
        return tmp_path / "out/reader"

    return train


def tower_features(state: Mapping[str, Tensor]) -> Tensor:
    """Features of `NEW` from open_clip's whole model, with a mean over prompts by hand."""
    whole = open_clip.create_model("tiny-reader").eval()
    whole.load_state_dict(dict(state))
    prompts = [prompt for of_class in TEXTS.prompts for prompt in of_class]
    with torch.no_grad():
        return whole.encode_text(open_clip.get_tokenizer("tiny-reader")(prompts))


def class_features(features: Tensor, projection: Tensor) -> np.ndarray:
    placed = F.normalize(features @ projection.T, dim=1)
    rows = [placed[:2].mean(dim=0), placed[2], placed[3]]
    return F.normalize(torch.stack(rows), dim=1).numpy()


def test_a_tower_that_was_trained_reads_words_that_training_never_showed(
    reader: Callable[..., Path], pair: Path
) -> None:
    path = reader() / "fold_1/checkpoint_best.pth"
    model = torch.load(path, weights_only=True)["model"]
    before = torch.load(pair / "tiny-reader.pt", weights_only=True)
    after, prefix = dict(before), "text_encoder.tower."
    for name in (name for name in model if name.startswith(prefix)):
        own = name.removeprefix(prefix)
        if own == "token_embedding.weight":
            after[own] = after[own].clone()
            after[own][model["text_encoder.vocabulary"]] = model[name]
        else:
            after[own] = model[name]
    assert not torch.equal(after["token_embedding.weight"], before["token_embedding.weight"])
    fold = with_class_texts(FoldClassifier.load(path, CPU), TEXTS)
    wanted = class_features(tower_features(after), model["text_projection.weight"])
    np.testing.assert_allclose(fold.classifier.class_features.numpy(), wanted, atol=1e-5)
    untouched = class_features(tower_features(before), model["text_projection.weight"])
    assert not np.allclose(wanted, untouched, atol=1e-4)


def test_a_frozen_tower_comes_from_its_weights_if_they_are_the_same(
    reader: Callable[..., Path],
    pair: Path,
    images: Path,
    predict: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = reader(freeze_text_encoder=True)
    path = config / "fold_1/checkpoint_best.pth"
    fold = with_class_texts(FoldClassifier.load(path, CPU), TEXTS)
    model = torch.load(path, weights_only=True)["model"]
    before = torch.load(pair / "tiny-reader.pt", weights_only=True)
    wanted = class_features(tower_features(before), model["text_projection.weight"])
    np.testing.assert_allclose(fold.classifier.class_features.numpy(), wanted, atol=1e-5)

    texts = write(tmp_path / "texts.json", NEW)
    words = ["--images", images, "--output", tmp_path / "new.csv", "--class-texts", texts]
    predict(config, *words)
    answers = read_table(tmp_path / "new.csv")
    assert answers.columns[2:] == [f"prob_{name}" for name in NEW]
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1, atol=1e-12)

    other = tmp_path / "other"
    other.mkdir()
    torch.manual_seed(4)
    torch.save(open_clip.create_model("tiny-reader").state_dict(), other / "tiny-reader.pt")
    shown = predict(config, *words, "--weights-dir", other, check=2)
    assert "was trained with other weights of clip:tiny-reader" in shown


@pytest.mark.parametrize(
    ("content", "piece"),
    [
        ('{"a": "one"}', "has 1 class(es)"),
        ("{}", "has 0 class(es)"),
        ('{"a": "same", "b": "Same"}', "have the same text"),
        ('{"a": "x", "b": []}', "class 'b' has an empty text"),
        ("[1]", "must be an object"),
        (None, "cannot be read"),
    ],
)
def test_files_that_hold_no_class_texts(
    content: str | None, piece: str, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "texts.json"
    if content is not None:
        file.write_text(content)
    shown = predict(tmp_path / "no_model", "--images", images, "--class-texts", file, check=2)
    assert piece in shown


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["--weights-dir", "."], "--weights-dir needs --class-texts"),
        (["--class-texts", "t.json", "--calibrate"], "--calibrate fits the temperature of"),
    ],
)
def test_flags_that_do_not_go_together(
    words: list[str], piece: str, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    assert piece in predict(tmp_path, "--images", images, *words, check=2)
