"""Stand-in for training in the workers of `soak.py`: waits, draws predictions, fails on purpose.

`sitecustomize` of the soak calls `install` in every worker before its own code is imported. The
worker itself (protocol, lock, log, report, result file) is the real one; only what trains, and the
torch that it would import, is replaced.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TextIO

import numpy as np

from clip_pkg.base.files import write_json
from clip_pkg.metrics.classification import classification_metrics, history_scores
from clip_pkg.study import tasks
from clip_pkg.study.fold_files import final_files, marks_of
from clip_pkg.study.predictions import Predictions
from clip_pkg.study.progress import Progress
from clip_pkg.study.tasks import FoldResult, FoldTask

SETTINGS = "CLIP_PKG_SOAK"  # environment variable: JSON with `folder`, `seed`, `seconds`
# Kind of fault → share of attempts. A fold's third attempt is never disturbed.
FAULTS = {
    "killed": 0.05,
    "killed before its answer": 0.02,
    "killed afterwards": 0.02,
    "stopped": 0.02,
    "asleep": 0.01,
    "raises": 0.05,
    "out of memory": 0.02,
    "exits": 0.01,
}
DISTURBED_ATTEMPTS = 2
FOREVER = 3600.0  # seconds


def drawn_fault(seed: int, name: str, fold: int, attempt: int) -> str | None:
    """Fault of an attempt at a fold, attempts counted from 1; None for none."""
    if attempt > DISTURBED_ATTEMPTS:
        return None
    draw = random.Random(f"{seed} {name} {fold} {attempt}").random()
    for kind, share in FAULTS.items():
        if draw < share:
            return kind
        draw -= share
    return None


def drawn_predictions(task: FoldTask) -> Predictions:
    """Predictions of a fold, the same in every attempt."""
    folds_info = json.loads(task.folds_info_file.read_text(encoding="utf-8"))
    classes, paths = folds_info["classes"], folds_info["folds"][task.fold - 1]["val"]
    labels = [classes.index(Path(path).parent.name) for path in paths]
    draw = np.random.default_rng([task.fold, *task.name.encode()])
    scores = draw.exponential(size=(len(paths), len(classes)))
    return Predictions(
        tuple(classes),
        tuple(paths),
        np.array(labels, dtype=np.int64),
        scores / scores.sum(axis=1, keepdims=True),
    )


def scores_of(predictions: Predictions) -> dict[str, float | None]:
    """Scores of a fold by history column."""
    found = classification_metrics(predictions.probabilities, predictions.targets)
    return {f"val_{name}": value for name, value in history_scores(found).items()}


class StandIn:
    """Waits instead of training, and writes the files of a finished fold."""

    is_resumed = False  # it starts anew, as a trainer without a checkpoint

    def __init__(self, task: FoldTask) -> None:
        self.task = task
        settings = json.loads(os.environ[SETTINGS])
        self.folder = Path(settings["folder"])
        self.seconds: float = settings["seconds"]
        attempts = self._append("attempts", f"{task.name} {task.fold}\n")
        attempt = attempts.count(f"{task.name} {task.fold}")
        self.fault = drawn_fault(settings["seed"], task.name, task.fold, attempt)
        if self.fault is not None:
            self._append("faults", f"{task.name} {task.fold} {self.fault}\n")

    def run(self, stream: TextIO, device_name: str, stop: object) -> FoldResult:
        """Write all files of a fold but its result."""
        task = self.task
        stream.write(f"{task.display_name} on {device_name}\n")
        moment = random.Random(f"{task.display_name}").random()
        self._wait(moment)
        self._disturb()
        self._wait(1 - moment)
        predictions = drawn_predictions(task)
        scores = scores_of(predictions)
        write_json(task.paths.history, {name: [value] for name, value in scores.items()})
        predictions.write(task.paths.predictions)
        predictions.write(task.paths.predictions_last)
        self._append("trained", f"{task.name} {task.fold}\n")
        return FoldResult(
            identity=task.identity,
            fold=task.fold,
            n_train=task.n_images - len(predictions.paths),
            n_val=len(predictions.paths),
            best_epoch=1,
            last_epoch=1,
            stopped_early=False,
            best=scores,
            last=scores,
            untrained=scores,
            chosen_on="reported fold",
            device="cpu",
            environment={},
            seconds=self.seconds,
            train_seconds=self.seconds,
            peak_memory_bytes=None,
            notices=[],
            files=marks_of(final_files(task.paths)),
        )

    def _wait(self, share: float) -> None:
        now = Progress(
            phase="train",
            epoch=1,
            epochs=1,
            step=1,
            steps=2,
            images_per_second=1.0,
            monitored=None,
            updated=time.time(),
            pid=os.getpid(),
            host="",
        )
        write_json(self.task.paths.progress, vars(now), durable=False)
        time.sleep(share * self.seconds)

    def _disturb(self) -> None:
        match self.fault:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "asleep":
                time.sleep(FOREVER)
            case "raises":
                raise RuntimeError("this attempt fails")
            case "out of memory":
                raise MemoryError("this attempt needs too much")
            case "exits":
                os._exit(3)

    def after_result(self) -> None:
        """Called once the result file is written, before the launcher knows."""
        if self.fault == "killed before its answer":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "killed afterwards":  # while it waits for its next task, or in it
            threading.Timer(self.seconds / 10, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def _append(self, name: str, line: str) -> list[str]:
        """Append a line to a file that all workers share; returns its lines."""
        path = self.folder / name
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
        return path.read_text(encoding="utf-8").splitlines()


def install() -> None:
    """Replace what trains, in this process."""
    trainer: StandIn | None = None

    @contextmanager
    def trainer_for(task: FoldTask, *_: object) -> Iterator[StandIn]:
        nonlocal trainer
        trainer = StandIn(task)
        yield trainer

    write_record = tasks.write_record

    def write_and_disturb(path: Path, record: Any) -> None:
        write_record(path, record)
        if isinstance(record, FoldResult) and trainer is not None:
            trainer.after_result()

    tasks.write_record = write_and_disturb
    replaced: dict[str, dict[str, object]] = {
        "torch": {
            "device": str,
            "set_num_threads": lambda count: None,
            "OutOfMemoryError": type("OutOfMemoryError", (RuntimeError,), {}),
        },
        "clip_pkg.models.probe": {"probe": lambda requests: []},
        "clip_pkg.training.build": {"trainer_for": trainer_for},
        "clip_pkg.training.ranks": {"ALONE": SimpleNamespace()},
        "clip_pkg.training.optimisation": {"Diverged": type("Diverged", (Exception,), {})},
        "clip_pkg.training.trainer": {"Interrupted": type("Interrupted", (Exception,), {})},
    }
    for name, content in replaced.items():
        module = ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
