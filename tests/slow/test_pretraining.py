"""Pre-training as a user has it: shared by folds and configs, interrupted, with a test set."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_pkg.cli import main
from support.outcomes import outcome
from support.tiny import TINY, command, make_folder, program_environment

PRETRAIN = {"loss": {"type": "nt_xent"}, "images": "all", "epochs": 2, "batch_size": 8}
BASE = {**TINY, "stem": "cifar", "pretrain": PRETRAIN, "epochs": 1}
PROBE = {"freeze_image_encoder": True, "augmentation": "none"}


def events(output: Path, name: str) -> list[dict[str, Any]]:
    lines = (output / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def folders(output: Path) -> list[Path]:
    return sorted((output / "pretraining").iterdir())


def summary(output: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / name / "cv_summary.json").read_text("utf-8"))
    return found


def test_one_pretraining_serves_five_folds_of_three_configs(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    changes: list[Mapping[str, Any]] = [
        {"name": "probe", **PROBE},
        {"name": "full"},
        {"name": "superclip", "loss": {"type": "superclip"}},
    ]
    file = write_configs(*({**BASE, "n_splits": 5, **change} for change in changes))
    train("--config-file", file, "--multi-config")
    output = tmp_path / "out"
    (folder,) = folders(output)
    done = [(event["config"], event["fold"]) for event in events(output, "done")]
    assert done[0] == (folder.name, 0)
    assert len(done) == len(set(done)) == 16
    encoder = torch.load(folder / "encoder.pth", weights_only=True)["image_encoder"]
    for name in ("probe", "full"):
        kept = torch.load(output / name / "fold_1" / "checkpoint_latest.pth", weights_only=True)
        weight = kept["model"]["image_encoder.model.conv1.weight"]
        assert torch.equal(weight, encoder["model.conv1.weight"]) == (name == "probe")
        assert summary(output, name)["pretraining"]["shared_by_folds"]
    said = train("--config-file", file, "--multi-config")
    assert "16 of 16 trainings are already finished" in said
    assert len(events(output, "done")) == 16


def test_each_fold_has_its_own_where_only_its_training_images_may_be_seen(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    block = {**PRETRAIN, "images": "train_fold", "loss": {"type": "supcon"}}
    train("--config-file", write_configs({**BASE, "name": "a", "pretrain": block}))
    output = tmp_path / "out"
    found = folders(output)
    assert len(found) == 2
    for number, folder in enumerate(found, start=1):
        result = json.loads((folder / "result.json").read_text("utf-8"))
        assert result["fold"] == number
        info = json.loads((output / "a" / "folds_info.json").read_text("utf-8"))
        assert result["n_train"] == sum(info["folds"][number - 1]["train_per_class"].values())


def test_images_without_labels_and_a_test_set(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    others = {"": 0, " ": 0, "  ": 0}  # so that the stripes are none of the classes'
    make_folder(tmp_path / "archive" / "2024", {**others, "any": 20})
    rest = make_folder(tmp_path / "more", {"red": 20, "grün": 20, "blue sky": 20})
    for path in sorted(rest.rglob("*.png")):
        if int(path.stem) < 14:  # those are in the training images
            path.unlink()
    block = {**PRETRAIN, "images": "archive", "loss": {"type": "vicreg"}}
    file = write_configs(
        {**BASE, **PROBE, "name": "a", "pretrain": block, "test_dir": "more", "use_cv": False}
    )
    said = train("--config-file", file)
    output = tmp_path / "out"
    (folder,) = folders(output)
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert result["n_train"] == 20
    assert result["last"].get("probe_acc") is None
    found = summary(output, "a")["test"]
    with (output / "a" / "fold_1" / "test_predictions.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == found["n"] == 18
    assert "Test" in said


def test_the_guides_command(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = {**TINY, "epochs": 1}
    words = ["--data-dir", str(images), "--output-dir", "out", "--executor", "inline"]
    for key, value in flags.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    block = json.dumps({"epochs": 1, "batch_size": 8, "images": "all"})
    words += ["--loss-func", "dhel", "--continue-pretrain", "--continue-finetune"]
    assert main([*words, "--pretrain", block]) == 0
    said = capsys.readouterr().out
    assert "starts from scratch" in said
    (folder,) = folders(tmp_path / "out")
    task = json.loads((folder / "task.json").read_text("utf-8"))
    assert task["config"]["pretrain"]["loss"]["type"] == "dhel"


def test_a_refit_starts_from_the_pretraining_of_the_folds(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train("--config-file", write_configs({**BASE, "name": "a"}))
    before = folders(tmp_path / "out")
    assert main(["refit", str(tmp_path / "out" / "a"), "--executor", "inline"]) == 0
    capsys.readouterr()
    assert folders(tmp_path / "out") == before
    assert (tmp_path / "out" / "a" / "refit" / "checkpoint_latest.pth").exists()


@pytest.mark.slow
def test_killed_in_pretraining_and_in_finetuning_and_started_again(
    images: Path, tmp_path: Path, train: Callable[..., str]
) -> None:
    block = {**PRETRAIN, "epochs": 6}
    config = {**BASE, "name": "a", "pretrain": block, "epochs": 6}
    (tmp_path / "configs.json").write_text(json.dumps([config]), encoding="utf-8")

    def start(output: str) -> subprocess.Popen[bytes]:
        words = ["--data-dir", images, "--output-dir", tmp_path / output]
        words += ["--log-dir", tmp_path / "logs", "--config-file", tmp_path / "configs.json"]
        with (tmp_path / "stdout.txt").open("ab") as stream:
            return subprocess.Popen(
                command(*words),
                cwd=tmp_path,
                env=program_environment(),
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def kill_after(output: Path, place: str, epochs: int) -> None:
        """Kill launcher and workers once a history below `place` has so many epochs."""
        process = start(output.name)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            done = [json.loads(path.read_text("utf-8")) for path in output.glob(place)]
            if any(len(history["train_loss"]) >= epochs for history in done):
                break
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    train("--config-file", tmp_path / "configs.json", output="undisturbed")
    output = tmp_path / "killed"
    kill_after(output, "pretraining/*/history.json", 2)
    kill_after(output, "a/fold_1/history.json", 2)
    assert start("killed").wait() == 0, (tmp_path / "stdout.txt").read_text()
    assert outcome(output) == outcome(tmp_path / "undisturbed")
    (mine,), (theirs,) = folders(output), folders(tmp_path / "undisturbed")
    first, second = (
        torch.load(folder / "encoder.pth", weights_only=True)["image_encoder"]
        for folder in (mine, theirs)
    )
    assert all(torch.equal(first[name], second[name]) for name in second)
    curves = [json.loads((folder / "history.json").read_text("utf-8")) for folder in (mine, theirs)]
    timed = ("epoch_seconds", "train_images_per_second")
    for curve in curves:
        for name in timed:
            curve.pop(name, None)
    assert curves[0] == curves[1]
