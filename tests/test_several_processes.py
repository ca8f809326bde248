"""A fold that several processes train: the same curves, one writer, and nobody left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from outcomes import check_readable, outcome
from tiny import TINY, program_environment

from clip_pkg.cli import main
from clip_pkg.planning.tasks import FoldTask, read_record, write_record
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, JobState
from clip_pkg.scheduling.processes import ProcessExecutor
from clip_pkg.scheduling.slots import Slot

CONFIG = {
    **TINY,
    "name": "a",
    "image_encoder_name": "test_vit:scratch",  # has no BatchNorm
    "use_superclip_loss": True,
    "use_weighted_sampling": True,
    "aux_losses": [{"type": "center", "weight": 0.1}],
    "use_amp": False,
    "use_cv": False,
    "inner_val_fraction": 0.2,
    "batch_size": 7,  # does not go into two, nor do the 19 training images go into batches
    "epochs": 30,  # enough to be interrupted in the middle
}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def one_process(images: Path, tmp_path_factory: pytest.TempPathFactory) -> FoldTask:
    """The task of a fold that one process has trained."""
    root = tmp_path_factory.mktemp("one")
    config = root / "configs.json"
    config.write_text(json.dumps([CONFIG]), encoding="utf-8")
    words = ["--data-dir", images, "--output-dir", root / "out", "--config-file", config]
    words += ["--log-dir", root / "logs", "--executor", "inline"]
    assert main([str(word) for word in words]) == 0
    task = read_record(FoldTask, root / "out/a/fold_1/task.json")
    assert task is not None
    return task


def start(task: FoldTask, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Train with two processes in a result folder of its own, as a cluster would."""
    moved = replace(task, run_dir=str(folder))
    write_record(moved.paths.task, moved)
    words = [sys.executable, "-m", "clip_pkg.worker", moved.paths.task, "--ranks", "2"]
    with log.open("ab") as stream:
        return subprocess.Popen(
            [*map(str, words), "--threads", "2"],
            env=program_environment(),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def two_processes(one_process: FoldTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same fold, trained by two."""
    root = tmp_path_factory.mktemp("two")
    code = start(one_process, root / "a", root / "log").wait()
    assert code == 0, (root / "log").read_text(encoding="utf-8")
    return root


def test_two_processes_give_the_curves_of_one(one_process: FoldTask, two_processes: Path) -> None:
    alone = read(one_process.paths.history)
    together = read(two_processes / "a/fold_1/history.json")
    assert list(together) == list(alone)
    for name in ("train_loss", "val_loss", "inner_val_loss", "train_center_loss", "temperature"):
        assert together[name] == pytest.approx(alone[name], rel=1e-5, abs=1e-6), name
    assert together["val_acc"] == alone["val_acc"]


def test_one_process_writes(one_process: FoldTask, two_processes: Path) -> None:
    fold = two_processes / "a/fold_1"
    assert {path.name for path in fold.iterdir()} == {
        path.name for path in one_process.paths.root.iterdir()
    }
    result = read(fold / "result.json")
    assert result["environment"]["device"].startswith("2 × cpu")
    assert result["notices"] == read(one_process.paths.result)["notices"]
    log = (two_processes / "log").read_text(encoding="utf-8")
    for line in ("TRAINING CONFIGURATION", "Processes: 2", "Best epoch so far by inner_val_loss\n"):
        assert line in log
    assert log.count("\nTrain Loss: ") == CONFIG["epochs"]
    assert log.count("done: best epoch") == 1
    assert "Warning" not in log
    events = list((two_processes / "a/tensorboard").rglob("events.*"))
    assert len(events) == len({event.parent for event in events})


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_whatever_happens_to_them_they_end_together_and_go_on_later(
    one_process: FoldTask, two_processes: Path, tmp_path: Path
) -> None:
    fold, log = tmp_path / "a/fold_1", tmp_path / "log"

    def begin() -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
        before = fold / "history.json"
        before.unlink(missing_ok=True)
        process = start(one_process, tmp_path / "a", log)
        wait_for(lambda: before.exists() or process.poll() is not None)
        assert process.poll() is None, log.read_text(encoding="utf-8")
        return process, psutil.Process(process.pid).children(recursive=True)

    # A process of the two is killed: the other one does not wait for it.
    process, ranks = begin()
    assert len(ranks) == 2
    next(rank for rank in ranks if rank.environ()["RANK"] == "1").kill()
    assert process.wait(timeout=20) == 1
    assert psutil.wait_procs(ranks, timeout=1)[1] == []
    failure = read(fold / "failure.json")
    assert failure["kind"] == "crash"
    wanted = "process 2 of the 2 that trained it together ended with signal SIGKILL"
    assert failure["reason"].startswith(wanted)
    check_readable(tmp_path / "a")

    # A cluster asks the whole job to end.
    process, ranks = begin()
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=20) == 130
    assert psutil.wait_procs(ranks, timeout=1)[1] == []
    check_readable(tmp_path / "a")

    # Who watches over them is killed.
    process, ranks = begin()
    process.kill()
    process.wait()
    assert psutil.wait_procs(ranks, timeout=10)[1] == []
    check_readable(tmp_path / "a")

    # The launcher kills it, because it seems to hang; the next attempt finishes it.
    task = replace(one_process, run_dir=str(tmp_path / "a"), gpus=2)
    slots = tuple(Slot(Device(str(number), "", "CPU")) for number in range(2))
    executor = ProcessExecutor()
    try:
        (fold / "history.json").unlink()
        job = executor.submit(Assignment(task, slots, log, threads=2))
        wait_for((fold / "history.json").exists)
        ranks = psutil.Process(int(job.process.removeprefix("pid "))).children(recursive=True)
        job.kill()
        wait_for(lambda: job.poll() is JobState.FAILED)
        assert psutil.wait_procs(ranks, timeout=1)[1] == []
        job = executor.submit(Assignment(task, slots, log, threads=2, attempt=2))
        wait_for(lambda: job.poll().is_over)
        assert job.poll() is JobState.DONE, job.failure
    finally:
        executor.close()
    assert "Going on after epoch" in log.read_text(encoding="utf-8")
    assert outcome(tmp_path / "a") == outcome(two_processes / "a")
