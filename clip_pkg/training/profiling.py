"""`--profile`: a trace of some training steps, and the seconds of a fold by phase."""

from __future__ import annotations

import os
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from clip_pkg.study.progress import FoldProfile
from clip_pkg.training.console import FoldConsole
from clip_pkg.training.phases import Phases, Stopwatch, unmeasured
from clip_pkg.training.setup import FoldSetup

TRACED_STEPS = 8


class Unprofiled:
    """What watches a fold that nobody wants to have measured."""

    phases: Phases = staticmethod(unmeasured)

    def __enter__(self) -> Unprofiled:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def before_epoch(self, epoch: int) -> None:
        """See `FoldProfiler`."""

    def after_step(self, epoch: int, done: int) -> None:
        """See `FoldProfiler`."""

    def finish(self, epoch: int) -> None:
        """See `FoldProfiler`."""


class FoldProfiler(Unprofiled):
    """Traces the end of the first epoch of an attempt, and measures those that follow.

    Nothing in the first epoch is counted: torch chooses kernels and gets its memory there, and a
    trace slows down what it looks at. Where one epoch is all there is, it is counted all the same.
    Of several ranks it is the first one that is looked at: all do the same at the same time, and
    the wait for the others is part of what each phase takes.

    epochs_done: by earlier attempts.
    """

    def __init__(self, setup: FoldSetup, console: FoldConsole, *, epochs_done: int) -> None:
        self._stopwatch = Stopwatch(setup.device)
        self.phases = self._stopwatch
        self._setup = setup
        self._console = console
        self._steps = len(setup.train)
        self._traced_epoch = epochs_done + 1
        is_last = self._traced_epoch == setup.config.epochs
        self._first_counted = self._traced_epoch + (0 if is_last else 1)
        self._trace: profile | None = None
        self._is_tracing = False

    def __exit__(self, *error: object) -> None:
        """Leave no trace running in a process that may live for further folds."""
        if self._is_tracing:
            self._end_trace()

    def before_epoch(self, epoch: int) -> None:
        """Begin what begins with this epoch."""
        if epoch == self._first_counted:
            self._stopwatch.start()
        if epoch == self._traced_epoch and self._steps <= TRACED_STEPS:
            self._begin_trace()

    def after_step(self, epoch: int, done: int) -> None:
        """Begin or end the trace, if this is the step; `done` counts from 1."""
        if epoch != self._traced_epoch:
            return
        if done == self._steps - TRACED_STEPS:
            self._begin_trace()
        if done == self._steps:
            self._end_trace()

    def finish(self, epoch: int) -> None:
        """Write what was found into the config's folder and into the log; `epoch`: the last one."""
        task, console = self._setup.task, self._console
        if self._trace is None or epoch < self._first_counted:
            console.line("NOTE: --profile found no epoch left to measure")
            return
        total, seconds = self._stopwatch.read()
        epochs = epoch - self._first_counted + 1
        found = FoldProfile(
            config=task.name,
            fold=task.fold,
            device=str(self._setup.device),
            first_epoch=self._first_counted,
            last_epoch=epoch,
            steps=self._steps * epochs,
            images=len(self._setup.train.order(epoch)) * epochs,
            total_seconds=total,
            seconds=seconds,
            ranks=self._setup.ranks.size,
        )
        trace = task.config_paths.trace(task.fold)
        _export(self._trace, trace)
        found.write(task.config_paths.profile(task.fold))
        console.line()
        console.line(found.title)
        for name, text, share in found.rows():
            console.line(f"  {name:<14}{text:>12} s {share:>6} %")
        console.line(f"Trace of {min(self._steps, TRACED_STEPS)} step(s){found.whose}: {trace}")

    def _begin_trace(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells of every start and stop
        activities = [ProfilerActivity.CPU]
        if self._setup.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._trace = profile(activities=activities)
        self._trace.start()
        self._is_tracing = True

    def _end_trace(self) -> None:
        assert self._trace is not None, "a trace was begun"
        self._trace.stop()
        self._is_tracing = False


def _export(trace: profile, path: Path) -> None:
    """Write a trace that Chrome and Perfetto read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")  # by the suffix torch knows that it is to compress
    try:
        trace.export_chrome_trace(str(temporary))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
