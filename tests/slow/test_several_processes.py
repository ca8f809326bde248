"""A fold that several processes train: the same curves, one writer, and nobody left behind."""

from __future__ import annotations

import gzip
import json
import os
import re
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

from clip_pkg.cli import main
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, JobState, Slot
from clip_pkg.scheduling.process import ProcessExecutor
from clip_pkg.study.progress import PHASES, read_profile
from clip_pkg.study.tasks import FoldTask, read_task, write_task
from support.outcomes import check_readable, outcome
from support.tiny import TINY, paint, program_environment

pytestmark = pytest.mark.slow  # all of them together

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
    "early_stopping_monitor": "val_acc",  # is at its best before the last epoch
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
    for label, name in enumerate(("red", "grün", "blue sky")):
        for number in range(3):
            paint(root / "test" / name / f"{number}.png", label, 1000 + number)
    values = {**CONFIG, "test_dir": str(root / "test")}
    config.write_text(json.dumps([values]), encoding="utf-8")
    words = ["--data-dir", images, "--output-dir", root / "out", "--config-file", config]
    words += ["--log-dir", root / "logs", "--executor", "inline"]
    assert main([str(word) for word in words]) == 0
    task = read_task(root / "out/a/fold_1/task.json")
    assert isinstance(task, FoldTask)
    return task


def start(task: FoldTask, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Train with two processes in a result folder of its own, as a cluster would."""
    moved = replace(task, run_dir=folder)
    write_task(moved)
    words = [sys.executable, "-m", "clip_pkg.training.worker", moved.paths.task, "--ranks", "2"]
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
    """The folder of the same fold, trained by two that decode for themselves and measure."""
    root = tmp_path_factory.mktemp("two")
    config = one_process.config.model_copy(update={"num_workers": 2})
    task = replace(one_process, config=config, pixel_store=None, profile=True)
    code = start(task, root / "a", root / "log").wait()
    assert code == 0, (root / "log").read_text(encoding="utf-8")
    return root


def test_two_processes_give_the_curves_of_one(one_process: FoldTask, two_processes: Path) -> None:
    alone = read(one_process.paths.history)
    together = read(two_processes / "a/fold_1/history.json")
    assert list(together) == list(alone)
    for name in ("train_loss", "val_loss", "inner_val_loss", "train_center_loss", "temperature"):
        assert together[name] == pytest.approx(alone[name], rel=1e-5, abs=1e-6), name
    assert together["val_acc"] == alone["val_acc"]


def test_both_processes_go_back_to_the_best_epoch_for_the_test_images(
    one_process: FoldTask, two_processes: Path
) -> None:
    alone, together = read(one_process.paths.result), read(two_processes / "a/fold_1/result.json")
    assert alone["best_epoch"] == together["best_epoch"] < alone["last_epoch"]
    assert together["n_test"] == 9
    assert together["test"].keys() == alone["test"].keys()
    for name, value in alone["test"].items():
        if value is None:
            assert together["test"][name] is None, name
        else:
            assert together["test"][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_one_process_writes(one_process: FoldTask, two_processes: Path) -> None:
    fold = two_processes / "a/fold_1"
    assert {path.name for path in fold.iterdir()} == {
        path.name for path in one_process.paths.root.iterdir()
    }
    result = read(fold / "result.json")
    assert result["environment"]["device"].startswith("2 × cpu")
    assert result["notices"] == read(one_process.paths.result)["notices"]
    log = (two_processes / "log").read_text(encoding="utf-8")
    for line in ("TRAINING CONFIGURATION", "Processes: 2", "Best epoch so far by inner_val_acc\n"):
        assert line in log
    assert log.count("\nTrain Loss: ") == CONFIG["epochs"]
    assert log.count("done: best epoch") == 1
    assert "Warning" not in log
    events = list((two_processes / "a/tensorboard").rglob("events.*"))
    assert len(events) == len({event.parent for event in events})


def test_rank_0_measures(two_processes: Path) -> None:
    log = (two_processes / "log").read_text(encoding="utf-8")
    assert {path.name for path in (two_processes / "a/profile").iterdir()} == {
        "fold_1.json",
        "fold_1_trace.json.gz",
    }
    found = read_profile(two_processes / "a/profile/fold_1.json")
    assert found is not None
    # 19 training images in batches of 7, of which each process has a part; the first epoch is not
    # counted.
    epochs = CONFIG["epochs"]
    assert (found.ranks, found.first_epoch, found.last_epoch) == (2, 2, epochs)
    assert (found.steps, found.images) == (3 * (epochs - 1), 19 * (epochs - 1))
    assert all(found.seconds[name] > 0 for name in PHASES)
    assert sum(found.seconds.values()) == pytest.approx(found.total_seconds)
    assert f"epochs 2–{epochs} on cpu, rank 0 of 2: {found.images} images" in log
    assert re.search(r"Trace of \d step\(s\), rank 0 of 2: ", log)
    trace = two_processes / "a/profile/fold_1_trace.json.gz"
    with gzip.open(trace, "rt", encoding="utf-8") as stream:
        names = {event.get("name") for event in json.load(stream)["traceEvents"]}
    assert {"image forward", "backward", "optimiser"} <= names


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run; of a dead one that nobody has asked for its exit code only that is left."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if runs(process)]


def test_whatever_happens_to_them_they_end_together_and_go_on_later(
    one_process: FoldTask, two_processes: Path, tmp_path: Path
) -> None:
    fold, log = tmp_path / "a/fold_1", tmp_path / "log"
    task = replace(one_process, run_dir=tmp_path / "a", gpus=2)
    places = tuple(Slot(Device(str(number), "", "CPU")) for number in range(2))
    assignment = Assignment(task, places, log, threads=2)
    executor = ProcessExecutor()

    def begun(worker: int) -> list[psutil.Process]:
        """The two processes, as soon as they have trained an epoch."""
        wait_for((fold / "history.json").exists)
        ranks = psutil.Process(worker).children(recursive=True)
        assert len(ranks) == 2
        return ranks

    # One of the two is killed: the other one does not wait for it.
    try:
        (job,) = executor.submit([assignment])
        ranks = begun(int(job.process.removeprefix("pid ")))
        next(rank for rank in ranks if rank.environ()["RANK"] == "1").kill()
        wait_for(lambda: job.poll() is JobState.FAILED, 20)
        wait_for(lambda: not running(ranks), 1)
        assert job.failure is not None
        assert job.failure.kind == "crash"
        wanted = "process 2 of the 2 that trained it together ended with signal SIGKILL"
        assert job.failure.reason.startswith(wanted)
        check_readable(tmp_path / "a")
    finally:
        executor.close()

    # A cluster asks the whole job to end.
    (fold / "history.json").unlink()
    process = start(one_process, tmp_path / "a", log)
    ranks = begun(process.pid)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=20) == 130
    wait_for(lambda: not running(ranks), 1)
    check_readable(tmp_path / "a")

    # Who watches over them is killed.
    (fold / "history.json").unlink()
    process = start(one_process, tmp_path / "a", log)
    ranks = begun(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not running(ranks), 10)
    check_readable(tmp_path / "a")

    # The next attempt finishes it.
    executor = ProcessExecutor()
    try:
        (job,) = executor.submit([assignment])
        wait_for(lambda: job.poll().is_over)
        assert job.poll() is JobState.DONE, job.failure
    finally:
        executor.close()
    assert "Resumed after epoch" in log.read_text(encoding="utf-8")
    # Here the images came from the pixel store.
    assert outcome(tmp_path / "a") == outcome(two_processes / "a")
