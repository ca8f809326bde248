"""`refit`: all images train, none validates, and nothing looks as if one had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clip_pkg.cli import main
from clip_pkg.config.schema import RunConfig
from clip_pkg.results.refit import refit_length
from clip_pkg.scheduling.resources import StopOnSignal
from support.outcomes import outcome
from support.tiny import TINY, make_folder

CONFIG = {
    **TINY,
    "name": "a",
    "epochs": 3,
    "n_splits": 3,
    "use_superclip_loss": True,
    "use_weighted_sampling": True,
    "inner_val_fraction": 0.3,
    "early_stopping_patience": 1,
}


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder with the config `a`, cross-validated on the CPU."""
    root = tmp_path_factory.mktemp("refit")
    (root / "configs.json").write_text(json.dumps([CONFIG]), encoding="utf-8")
    words = ["--data-dir", images, "--output-dir", root / "out", "--log-dir", root / "logs"]
    words += ["--config-file", root / "configs.json", "--executor", "inline"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert main([str(word) for word in words]) == 0
    return root / "out"


@pytest.fixture
def config_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy of its result folder that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "out")) / "a"


@pytest.fixture
def refit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Refit in this process, on the CPU; returns what was printed."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)

    def run(folder: Path, *words: str | Path, check: int = 0) -> str:
        code = main(["refit", str(folder), "--executor", "inline", *map(str, words)])
        shown = capsys.readouterr()
        assert code == check, shown.out + shown.err
        assert "Traceback" not in shown.out + shown.err
        return shown.out + shown.err

    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def numbers(value: Any) -> Iterator[str]:
    """Every key of nested JSON."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield key
        yield from numbers(inner)


def test_all_images_train_and_none_validates(
    config_dir: Path, images: Path, refit: Callable[..., str]
) -> None:
    summary = read(config_dir / "cv_summary.json")
    folds = outcome(config_dir)
    best = summary["fold_results"]["fold_best_epoch"]
    shown = refit(config_dir)
    folder = config_dir / "refit"
    epochs = sorted(best)[1]
    assert f"{epochs} epochs, the median of the folds' best epochs" in shown
    assert "it has no score of its own" in shown
    assert f"{summary['average_results']['avg_val_acc']:.2f}" in shown
    history = read(folder / "history.json")
    assert {len(column) for column in history.values()} == {epochs}
    assert "train_loss" in history
    assert not [name for name in history if "val" in name]
    exposure = (folder / "sampler_exposure.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(exposure) == 30
    assert sum(int(line.rpartition(",")[2]) for line in exposure) == 30 * epochs
    assert {path.name for path in folder.iterdir()} == {
        "task.json",
        "progress.json",
        "result.json",
        "refit_summary.json",
        "history.json",
        "sampler_exposure.csv",
        "checkpoint_latest.pth",
    }
    result = read(folder / "result.json")
    assert (result["n_train"], result["n_val"], result["best_epoch"]) == (30, 0, None)
    assert result["best"] == result["last"] == result["untrained"] == {}
    assert result["chosen_on"] == "no image"
    state = torch.load(folder / "checkpoint_latest.pth", weights_only=True)
    assert state["optimisation"] is None
    assert not [name for name in state["metrics"] if "val" in name]
    log = next(config_dir.parents[1].rglob("a_gpu-none_*.log")).read_text(encoding="utf-8")
    assert "Images: 30 train, 0 validation" in log
    assert "Val Loss" not in log
    curves = [path.name for path in (config_dir / "tensorboard/refit").iterdir()]
    assert sorted(curves) == ["steps", "train"]
    told = read(folder / "refit_summary.json")
    assert told["held_out"] is None
    assert told["trained_on"]["per_class"] == {"blue sky": 6, "grün": 10, "red": 14}
    estimate = told.pop("cross_validated_estimate")
    assert estimate["best_epoch"] == summary["average_results"]
    assert "judged by none" in estimate["of"]
    assert not [name for name in numbers(told) if "val" in name or "acc" in name]
    # The cross-validation is what it was.
    after = outcome(config_dir)
    assert {name: after[name] for name in folds} == folds


def test_the_schedule_runs_over_the_epochs_and_other_epochs_are_another_refit(
    config_dir: Path, refit: Callable[..., str]
) -> None:
    refit(config_dir, "--epochs", "4")
    rates = read(config_dir / "refit/history.json")["learning_rate"]
    steps = 30 // 8 + (30 % 8 > 1)
    warm, total = 4 * steps // 10, 4 * steps
    for epoch, rate in enumerate(rates):
        step = epoch * steps
        if step > warm:
            share = (step - warm) / (total - warm)
            assert rate == pytest.approx(1e-3 * (1 + np.cos(np.pi * share)) / 2, rel=0.2)
    assert rates[-1] < 0.5e-3
    shown = refit(config_dir, "--epochs", "4")
    assert "1 of 1 folds are already finished" in shown
    shown = refit(config_dir, "--epochs", "5", check=2)
    assert "different config" in shown
    assert "--overwrite" in shown
    refit(config_dir, "--epochs", "5", "--overwrite")
    assert len(read(config_dir / "refit/history.json")["train_loss"]) == 5
    (kept,) = (config_dir.parent / "replaced").iterdir()
    assert kept.name.startswith("a-refit-")
    assert len(read(kept / "history.json")["train_loss"]) == 4


def test_interrupted_it_goes_on_to_the_bit(
    config_dir: Path,
    refit: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    refit(config_dir, "--epochs", "4")
    wanted = outcome(config_dir / "refit")
    shutil.rmtree(config_dir / "refit")

    class After:
        """Asked for after each step; true from the n-th time on."""

        asked = 0

        def __bool__(self) -> bool:
            After.asked += 1
            return After.asked > 14

    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "__bool__", lambda self: bool(After()))
        shown = refit(config_dir, "--epochs", "4", check=130)
    assert "Run the same command again" in shown
    assert 0 < len(read(config_dir / "refit/history.json")["train_loss"]) < 4
    assert not (config_dir / "refit/result.json").exists()
    refit(config_dir, "--epochs", "4")
    assert outcome(config_dir / "refit") == wanted


def test_predict_takes_it(
    config_dir: Path, images: Path, refit: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    refit(config_dir, "--epochs", "1")
    words = ["--images", str(images), "--device", "cpu"]
    assert main(["predict", str(config_dir / "refit"), *words]) == 0
    shown = capsys.readouterr().out
    assert "refit on all images (epoch 1)" in shown
    assert "NOTE" not in shown
    assert main(["predict", str(config_dir), *words]) == 0  # the folds, as before
    assert "the mean of fold 1" in capsys.readouterr().out


def test_the_card_of_its_export_quotes_the_folds_and_says_so(
    config_dir: Path, refit: Callable[..., str], tmp_path: Path
) -> None:
    refit(config_dir, "--epochs", "1")
    words = ["--output", str(tmp_path / "exported"), "--format", "safetensors"]
    assert main(["export", str(config_dir / "refit"), *words]) == 0
    card = (tmp_path / "exported/README.md").read_text(encoding="utf-8")
    averages = read(config_dir / "cv_summary.json")["average_results"]
    assert "no image was held out" in card
    assert "This model was not evaluated" in card
    mean = f"{averages['avg_val_acc']:.2f} ± {averages['std_val_acc']:.2f}"
    assert f"| mean ± SD of 3 | {mean} |" in card
    told = read(tmp_path / "exported/config.json")
    assert [(one["part"], one["epoch"]) for one in told["models"]] == [("refit", 1)]
    assert told["models"][0]["training_images"] == {"blue sky": 6, "grün": 10, "red": 14}


def test_missing_folds_have_no_say_unless_the_epochs_are_given(
    config_dir: Path, refit: Callable[..., str]
) -> None:
    (config_dir / "fold_2/result.json").unlink()
    shown = refit(config_dir, check=2)
    assert "without fold_2 (missing)" in shown
    assert "--epochs N" in shown
    assert not (config_dir / "refit").exists()
    refit(config_dir, "--epochs", "1")
    assert read(config_dir / "refit/refit_summary.json")["epochs_are"] == "set by --epochs"


def test_other_images_and_other_folders_are_refused(
    config_dir: Path, images: Path, refit: Callable[..., str], tmp_path: Path
) -> None:
    other = make_folder(tmp_path / "other", {"red": 4, "grün": 4, "blue sky": 4})
    assert "other images" in refit(config_dir, "--data-dir", other, check=2)
    preflight = config_dir / "preflight.json"
    preflight.write_text(json.dumps({"data_dir": str(tmp_path / "gone")}), encoding="utf-8")
    assert "use --data-dir DIR" in refit(config_dir, check=2)
    preflight.unlink()
    assert "does not say where the images are" in refit(config_dir, check=2)
    assert "is not a result folder" in refit(tmp_path, check=2)
    assert "at least 1" in refit(config_dir, "--epochs", "0", check=2)
    refit(config_dir, "--data-dir", images, "--epochs", "1")
    (config_dir / "refit/task.json").unlink()
    assert "holds no refit" in refit(config_dir, "--data-dir", images, check=2)


@pytest.mark.parametrize(
    ("save_best", "best", "last", "epochs"),
    [(True, [3, 9, 4], [9, 9, 9], 4), (True, [3, 4], [9, 9], 4), (False, [1, 1], [7, 8], 8)],
)
def test_the_length_is_the_median(
    save_best: bool, best: list[int], last: list[int], epochs: int
) -> None:
    config = RunConfig.model_validate({**TINY, "save_best": save_best})
    summary = {
        "config": config.model_dump(mode="json"),
        "complete": True,
        "fold_results": {"fold_best_epoch": best},
        "last_epoch": {"fold_results": {"fold_last_epoch": last}},
    }
    length = refit_length(summary, None)
    assert length.epochs == epochs
    assert ("best" if save_best else "last") in length.reason
    assert ("rounded up" in length.reason) == (len(best) == 2)
    assert refit_length(summary, 2).epochs == 2
