"""`predict` as a user starts it: what it takes, what it writes, what it says."""

from __future__ import annotations

import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from integration.inference.conftest import read_table
from PIL import Image

from clip_pkg.base.errors import DataError
from clip_pkg.cli import main
from clip_pkg.inference.ensemble import Ensemble
from clip_pkg.inference.images import ImageFile, find_images
from clip_pkg.models.classifier import Classifier
from support.tiny import make_folder, program_environment


@pytest.fixture
def folds(run: Path, tmp_path: Path) -> Path:
    """A copy of a config's result folder with three folds, elsewhere."""
    return Path(shutil.copytree(run / "folds", tmp_path / "elsewhere/folds"))


def test_the_ensemble_is_the_mean_of_the_folds(
    run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    shown = predict(run / "folds", "--images", images, "--output", tmp_path / "all.csv")
    assert "the mean of fold 1" in shown
    assert "30 prediction(s)" in shown
    parts = []
    for fold in (1, 2, 3):
        answers = tmp_path / f"{fold}.csv"
        predict(run / f"folds/fold_{fold}", "--images", images, "--output", answers)
        parts.append(read_table(answers).probabilities)
    together = read_table(tmp_path / "all.csv")
    np.testing.assert_allclose(together.probabilities, np.mean(parts, axis=0), rtol=1e-14)
    np.testing.assert_allclose(together.probabilities.sum(axis=1), 1, atol=1e-12)
    assert len({part.tobytes() for part in parts}) == 3


def test_folds_that_are_not_finished_are_named_and_left_out(
    folds: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    answers = tmp_path / "answers.csv"
    words = ["--images", images, "--output", answers]
    (folds / "fold_2/result.json").unlink()
    assert "without fold_2 (unfinished)" in predict(folds, *words)
    mean = read_table(answers).probabilities
    parts = []
    for fold in (1, 3):
        predict(folds / f"fold_{fold}", *words)
        parts.append(read_table(answers).probabilities)
    np.testing.assert_allclose(mean, np.mean(parts, axis=0), rtol=1e-14)
    assert "fold_2 is unfinished" in predict(folds / "fold_2", *words)
    shutil.rmtree(folds / "fold_1")
    for path in folds.glob("fold_3/checkpoint_*"):
        path.unlink()
    shown = predict(folds, *words, check=2)
    assert "fold_1 (unfinished), fold_2 (unfinished), fold_3 (its checkpoints are missing)" in shown


def test_folds_that_were_copied_alone_are_all_there_is(
    folds: Path, images: Path, predict: Callable[..., str]
) -> None:
    shutil.rmtree(folds / "fold_2")
    (folds / "folds_info.json").unlink()
    shown = predict(folds, "--images", images)
    assert "fold 1" in shown
    assert "fold 3" in shown
    assert "without" not in shown
    (folds / "folds_info.json").write_text("{}")
    assert "folds_info.json is damaged" in predict(folds, "--images", images, check=2)


def test_a_full_gpu_is_a_sentence(
    run: Path, images: Path, predict: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Classifier, "embeddings", too_much)
    assert "--device cpu" in predict(run / "clip", "--images", images, check=2)


def test_folds_of_different_runs_are_not_mixed(
    folds: Path, run: Path, images: Path, predict: Callable[..., str]
) -> None:
    for name in ("checkpoint_best.pth", "checkpoint_latest.pth"):
        shutil.copy(run / "clip/fold_1" / name, folds / "fold_2" / name)
    assert "different runs" in predict(folds, "--images", images, check=2)


def test_a_fold_without_best_checkpoint_says_which_model_it_is(
    run: Path, images: Path, predict: Callable[..., str]
) -> None:
    for model in (run / "no_best", run / "no_best/fold_1"):
        assert "the model of its last epoch" in predict(model, "--images", images)


def test_json_holds_what_csv_holds(
    run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    tables = []
    for name in ("answers.csv", "answers.JSON"):
        predict(run / "clip", "--images", images, "--output", tmp_path / "new" / name)
    (tmp_path / "new/answers.JSON").rename(tmp_path / "new/answers.json")
    for name in ("answers.csv", "answers.json"):
        tables.append(read_table(tmp_path / "new" / name))
    first, second = tables
    assert first.columns == ["path", "prediction", "prob_blue sky", "prob_grün", "prob_red"]
    assert (first.columns, first.paths, first.predictions) == (
        second.columns,
        second.paths,
        second.predictions,
    )
    assert np.array_equal(first.probabilities, second.probabilities)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"answers.csv", "answers.json"}


def test_without_output_the_first_answers_are_shown(
    run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    shown = predict(run / "clip", "--images", images)
    assert shown.count(".png") == 10
    assert "10 of 30 images; --output" in shown
    assert list(tmp_path.iterdir()) == []
    one = predict(run / "clip", "--images", images / "grün/003.png")
    assert one.count(".png") == 1
    assert "grün" in one


def test_an_image_alone_gets_the_answer_that_it_gets_among_others(
    run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    answers = tmp_path / "answers.json"
    predict(run / "folds", "--images", images, "--output", answers)
    among = read_table(answers)
    for number in (0, 17):
        predict(run / "folds", "--images", among.paths[number], "--output", answers)
        alone = read_table(answers)
        assert alone.paths == [among.paths[number]]
        np.testing.assert_allclose(
            alone.probabilities[0], among.probabilities[number], rtol=0, atol=2e-6
        )


def test_it_says_what_timm_and_torch_say(
    run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    fold = run / "folds/fold_1"
    state = torch.load(fold / "checkpoint_latest.pth", weights_only=True)
    weights, file = state["model"], images / "red/005.png"
    encoder = timm.create_model("test_resnet", num_classes=0).eval()
    prefix = "image_encoder.model."
    encoder.load_state_dict(
        {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
    )
    square = Image.open(file).convert("RGB").resize((37, 37), Image.Resampling.BICUBIC)
    pixels = torch.tensor(np.asarray(square))[2:34, 2:34].permute(2, 0, 1) / 255
    cfg = encoder.default_cfg
    pixels = (pixels - torch.tensor(cfg["mean"])[:, None, None]) / torch.tensor(cfg["std"])[
        :, None, None
    ]
    with torch.no_grad():
        feature = F.normalize(encoder(pixels[None]) @ weights["image_projection.weight"].T)
        texts = F.normalize(weights["text_encoder.vectors"])
        wanted = (feature @ texts.T * weights["log_logit_scale"].exp()).softmax(1)
    answers = tmp_path / "answers.json"
    predict(fold / "checkpoint_latest.pth", "--images", file, "--output", answers)
    np.testing.assert_allclose(read_table(answers).probabilities, wanted.numpy(), atol=1e-5)


def test_two_classes(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    predict: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    data = make_folder(tmp_path / "data", {"[bold]": 6, "b": 6})
    shown = train("--config-file", write_configs({"name": "a", "epochs": 1}), data=data)
    assert f"predict {tmp_path / 'out/a'} --images" in shown
    table = predict(tmp_path / "out/a", "--images", data)
    assert "[bold]" in table
    predict(tmp_path / "out/a", "--images", data, "--output", tmp_path / "answers.csv")
    assert read_table(tmp_path / "answers.csv").probabilities.shape == (12, 2)


def test_unreadable_images_are_all_named(
    run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    data = Path(shutil.copytree(images, tmp_path / "data"))
    whole = (data / "red/000.png").read_bytes()
    broken = {"blue sky/000a.png": b"", "red/000a.png": whole[:-200], "red/text.jpg": b"no image"}
    for name, content in broken.items():
        (data / name).write_bytes(content)
    answers = tmp_path / "answers.csv"
    answers.write_text("old")
    words = ["--images", data, "--output", answers]
    shown = predict(run / "clip", *words, check=2)
    assert "3 of 33 image(s) cannot be read" in shown
    assert all(name in shown for name in broken)
    assert "--skip-unreadable" in shown
    assert answers.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "answers.csv"}
    shown = predict(run / "clip", *words, "--skip-unreadable")
    assert all(name in shown for name in broken)
    left = read_table(answers)
    predict(run / "clip", "--images", images, "--output", answers)
    whole_table = read_table(answers)
    assert [Path(path).name for path in left.paths] == [
        Path(path).name for path in whole_table.paths
    ]
    assert np.array_equal(left.probabilities, whole_table.probabilities)
    alone = [word for name in broken for word in (data / name,)]
    shown = predict(run / "clip", "--images", *alone, "--skip-unreadable", check=2)
    assert "3 of 3 image(s) cannot be read" in shown


def test_nothing_is_answered_in_vain(run: Path, images: Path) -> None:
    ensemble = Ensemble.load([run / "clip/fold_1/checkpoint_best.pth"], torch.device("cpu"))
    found = [ImageFile("gone", images / "gone.png"), *find_images([images]).images]
    seen: list[object] = []
    with pytest.raises(DataError, match="1 of 31"):
        seen.extend(ensemble.answers(found, progress=lambda *done: seen.append(done)))
    assert seen == [(31, 31)]
    (answers,) = ensemble.answers(found, skip_unreadable=True)
    assert [len(answers.images), len(answers.unreadable)] == [30, 1]


def test_files_of_a_table_that_are_not_there_are_unreadable(
    run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"label,path\nx,{images / 'red/001.png'}\ny,nowhere/a.png\n")
    shown = predict(run / "clip", "--images", table, check=2)
    assert "nowhere/a.png: does not exist" in shown
    output = tmp_path / "answers.csv"
    predict(run / "clip", "--images", table, "--skip-unreadable", "--output", output)
    assert "red/001.png" in output.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["nowhere", "{images}/red", "gone.png"], "gone.png: no such file or folder"),
        (["{tmp}/empty"], "contains no image"),
        (["{tmp}/bad.csv"], "must name one column `path`"),
    ],
)
def test_paths_without_images(
    words: list[str],
    piece: str,
    run: Path,
    images: Path,
    predict: Callable[..., str],
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("file,label\na.png,b\n")
    given = [word.format(images=images, tmp=tmp_path) for word in words]
    assert piece in predict(run / "clip", "--images", *given, check=2)


@pytest.mark.parametrize(
    ("place", "piece"),
    [
        ("{tmp}", "is a folder"),
        ("{tmp}/answers.txt", "must end in .csv or .json"),
        ("{tmp}/answers", "must end in .csv or .json"),
        ("{tmp}/table.csv", "would overwrite one of its own inputs"),
        ("{tmp}/table.csv/answers.csv", "cannot be written"),
        ("{run}/clip/fold_1/predictions.csv", "belongs to a training run"),
        ("{run}/clip/config.json", "belongs to a training run"),
    ],
)
def test_places_that_cannot_be_meant(
    place: str,
    piece: str,
    run: Path,
    images: Path,
    predict: Callable[..., str],
    tmp_path: Path,
) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"path\n{images / 'red/001.png'}\n")
    before = table.read_bytes(), (run / "clip/fold_1/predictions.csv").read_bytes()
    target = place.format(tmp=tmp_path, run=run)
    assert piece in predict(run / "clip", "--images", table, "--output", target, check=2)
    assert before == (table.read_bytes(), (run / "clip/fold_1/predictions.csv").read_bytes())
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_full_disk_is_a_sentence_and_keeps_the_old_file(
    run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The operating system refuses to let any file grow beyond 1 kB, as a full disk would.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        shown = predict(run / "clip", "--images", images, "--output", answers, check=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "answers.json: cannot be written: File too large" in shown
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"answers.json": "old"}


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["--images", "a.png"], "MODEL"),
        (["model"], "--images must be given"),
        (["model", "--images", "a.png", "--device", "gpu"], "--device: 'gpu' is not a device"),
        (["model", "--images", "a.png", "--devic", "cpu"], "did you mean --device"),
        (["{run}", "--images", "a.png"], "choose one, for example"),
        (["{run}/folds", "--images", "{images}", "--device", "cuda:99"], "--device: cuda:99"),
    ],
)
def test_flags(
    words: list[str],
    piece: str,
    run: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["predict", *(word.format(run=run, images=images) for word in words)]) == 2
    shown = capsys.readouterr().err
    assert piece in shown
    assert "Traceback" not in shown


def test_nothing_asks_the_network_and_no_pretrained_weights_are_needed(
    run: Path,
    images: Path,
    predict: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "pretrained.pth"
    state = torch.load(run / "clip/fold_1/checkpoint_best.pth", weights_only=True)
    encoders = {"image_encoder_name": "test_resnet", "text_encoder_name": "hf:bert-base-chinese"}
    torch.save({**state, "config": {**state["config"], **encoders}}, path)

    def refuse(*_: object) -> None:
        raise AssertionError("somebody asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    tables = []
    for model in (path, run / "clip/fold_1"):
        predict(model, "--images", images, "--output", tmp_path / "answers.csv")
        tables.append(read_table(tmp_path / "answers.csv").probabilities)
    assert np.array_equal(*tables)


def test_wrong_paths_are_told_without_torch(images: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from clip_pkg.cli import main\n"
        "assert main(['predict', 'nowhere', '--images', sys.argv[1]]) == 2\n"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(images)],
        cwd=tmp_path,
        env=program_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "nowhere: no such checkpoint or result folder" in done.stderr
