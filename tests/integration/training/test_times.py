"""Seconds of a training that was interrupted, and what is expected of the next one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clip_pkg.base.files import write_json
from clip_pkg.base.paths import ConfigPaths, RunPaths
from clip_pkg.launch.execution import estimates_of
from clip_pkg.study.tasks import FoldResult, read_record, read_task
from clip_pkg.training import build, trainer
from clip_pkg.training.trainer import Interrupted, Trainer

START, EPOCH, LOST = 5.0, 10.0, 4.0  # seconds of a start, an epoch, and one that is cut off
CONFIG = {"name": "a", "use_cv": False, "epochs": 6}


@dataclass
class Clock:
    """Stands still but for starts and training epochs. cut_off: epoch in which training ends."""

    now: float = 0.0
    cut_off: int | None = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one, whole_run, whole_epoch = Clock(), Trainer.run, Trainer._train_epoch

    def run(self: Trainer, *arguments: Any) -> FoldResult:
        one.now += START
        return whole_run(self, *arguments)

    def train_epoch(self: Trainer, epoch: int, on_step: Any) -> Any:
        if epoch == one.cut_off:
            one.now += LOST
            raise Interrupted
        one.now += EPOCH
        return whole_epoch(self, epoch, on_step)

    for module in (build, trainer):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: one.now))
    monkeypatch.setattr(Trainer, "run", run)
    monkeypatch.setattr(Trainer, "_train_epoch", train_epoch)
    return one


def test_times_are_those_of_all_attempts_and_estimates_those_of_a_single_one(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path, clock: Clock
) -> None:
    config = write_configs(CONFIG)
    clock.cut_off = 4
    train("--config-file", config, check=130)
    clock.cut_off = None
    train("--config-file", config)
    paths = ConfigPaths(tmp_path / "out/a")
    timing = json.loads(paths.summary.read_text(encoding="utf-8"))["timing"]
    trained = 6 * EPOCH + LOST
    assert timing["fold_train_seconds"] == [trained]
    assert timing["fold_seconds"] == [2 * START + trained]
    task = read_task(paths.fold(1).task)
    assert task is not None
    expected = estimates_of(RunPaths(tmp_path / "out")).seconds(task)
    assert expected == pytest.approx(START + 6 * EPOCH, rel=0.25)


def test_an_attempt_that_was_killed_counts_as_far_as_it_was_recorded(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path, clock: Clock
) -> None:
    config = write_configs({**CONFIG, "epochs": 1})
    train("--config-file", config)
    fold = ConfigPaths(tmp_path / "out/a").fold(1)
    progress = json.loads(fold.progress.read_text(encoding="utf-8"))
    assert (progress["seconds"], progress["train_seconds"]) == (START + EPOCH, EPOCH)
    fold.result.unlink()
    fold.checkpoint_latest.unlink()  # killed before the first one
    write_json(fold.progress, {**progress, "seconds": 100.0, "train_seconds": 60.0})
    train("--config-file", config)
    result = read_record(FoldResult, fold.result)
    assert result is not None
    assert result.seconds == 100 + START + EPOCH
    assert result.train_seconds == 60 + EPOCH
    assert result.expected_seconds == START + EPOCH
