"""Where the seconds of a fold go: one fold in this process, with a clock in each of its parts.

Seconds belong to the innermost part, so that they add up to the fold's. On a GPU every part waits
for the device at its end, which the program itself does not: there the sum is larger than without
clocks.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.measurement import synchronize
from clip_pkg.classifier import Classifier
from clip_pkg.data.batches import EvalBatches, TrainBatches
from clip_pkg.engine import console, fold
from clip_pkg.engine.console import FoldConsole
from clip_pkg.engine.epoch import RunningScores
from clip_pkg.engine.history import History
from clip_pkg.engine.image_side import WholeBatch
from clip_pkg.engine.optimisation import Optimisation
from clip_pkg.engine.passes import FoldPasses
from clip_pkg.engine.step import TrainingStep
from clip_pkg.engine.step_curves import StepCurves
from clip_pkg.engine.tensorboard import FoldCurves
from clip_pkg.model import ImageTextModel
from clip_pkg.planning.tasks import FoldTask, read_record

# What the bare model does, too; the rest is what the trainer adds.
OF_THE_FLOOR = ("image forward", "backward", "optimiser", "validation forward")
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("set-up", fold, "set_up"),
    ("image forward", WholeBatch, "__call__"),
    ("text", ImageTextModel, "class_features"),
    ("loss", TrainingStep, "__call__"),
    ("validation forward", Classifier, "embeddings"),
    ("validation rest", FoldPasses, "evaluate"),
    ("scores", fold, "classification_metrics"),
    ("scores", RunningScores, "add"),
    ("scores", RunningScores, "fetch"),
    ("logs and curves", StepCurves, "add"),
    ("logs and curves", StepCurves, "flush"),
    ("logs and curves", FoldCurves, "add"),
    ("logs and curves", FoldConsole, "line"),
    ("logs and curves", console, "write_json"),
    ("logs and curves", History, "write"),
    ("checkpoint", fold, "snapshot"),
    ("checkpoint", fold, "write_best"),
    ("checkpoint", fold, "write_latest"),
)


class Clock:
    """Seconds by part; `within` may be nested."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._inside = ["other"]
        self._since = time.perf_counter()

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Count what happens as `part`."""
        self._turn()
        self._inside.append(part)
        try:
            yield
        finally:
            self._turn()
            self._inside.pop()

    def _turn(self) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        part = self._inside[-1]
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    def call(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Count a function's calls."""

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.within(part):
                return function(*args, **kwargs)

        return counted

    def iteration(self, part: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Any]:
        """Count what an iterator does between asking and getting."""

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            items = function(*args, **kwargs)
            while True:
                with self.within(part):
                    item = next(items, None)
                if item is None:
                    return
                yield item

        return counted

    def optimisation(self, function: Callable[..., None]) -> Callable[..., None]:
        """Count the two halves of a step's end."""

        @wraps(function)
        def counted(
            one: Optimisation, loss: Tensor, backward: Callable[[Tensor], None] = Tensor.backward
        ) -> None:
            with self.within("optimiser"):
                function(one, loss, self.call("backward", backward))

        return counted


def fold_phases(task_file: Path, folder: Path, device: torch.device) -> dict[str, float]:
    """Train the fold of a task file once more, into a new folder; seconds of each part."""
    task = read_record(FoldTask, task_file)
    assert task is not None, f"no task file {task_file}"
    clock = Clock(device)
    with ExitStack() as stack:
        for part, owner, name in PARTS:
            timed = clock.call(part, getattr(owner, name))
            stack.enter_context(patch.object(owner, name, timed))
        for owner, name in ((TrainBatches, "epoch"), (EvalBatches, "__iter__")):
            timed = clock.iteration("data", getattr(owner, name))
            stack.enter_context(patch.object(owner, name, timed))
        applied = clock.optimisation(Optimisation.apply)
        stack.enter_context(patch.object(Optimisation, "apply", applied))
        with clock.within("other"):
            fold.run_fold(
                replace(task, run_dir=str(folder)),
                device=device,
                device_id=str(device),
                stream=io.StringIO(),
                stop=False,
            )
    return clock.seconds
