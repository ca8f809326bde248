"""`--profile`: seconds of a fold by phase, and a trace of some training steps.

Without it phases are not measured and cost nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from clip_pkg.study.progress import PHASES, FoldProfile, Phase
from clip_pkg.study.tasks import ModelTask

Item = TypeVar("Item")
# Returns the context in which a phase runs. Phases never overlap.
Phases: TypeAlias = Callable[[Phase], AbstractContextManager[object]]
MAX_PENDING = 4096  # pairs of GPU events, before the host waits for them
TRACED_STEPS = 8
_NOTHING = nullcontext()


def unmeasured(name: Phase) -> AbstractContextManager[object]:
    """No-op `Phases`."""
    del name
    return _NOTHING


def fetched(items: Iterable[Item], phases: Phases) -> Iterator[Item]:
    """Yield items, none of which is None; waiting for the next one counts as phase `data`."""
    iterator = iter(items)
    while True:
        with phases("data"):
            found = next(iterator, None)
        if found is None:
            return
        yield found


class Stopwatch:
    """`Phases` that add up seconds and name the phases in traces of torch's profiler.

    On a GPU the device's time is measured, from the start of the first operation of a phase to the
    end of the last, including the time in which it waits for the host. The host waits for the
    device only once in thousands of steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._runs = False
        self._started = 0.0
        self._seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        """Begin to measure; until then phases only have names in traces."""
        self._synchronize()
        self._runs = True
        self._started = time.perf_counter()

    @contextmanager
    def __call__(self, name: Phase, /) -> Iterator[None]:
        with record_function(name):
            if not self._runs:
                yield
            elif self._device.type == "cuda":
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                first.record()
                yield
                last.record()
                self._pending.append((name, first, last))
                if len(self._pending) >= MAX_PENDING:
                    self._collect()
            else:
                began = time.perf_counter()
                yield
                self._seconds[name] += time.perf_counter() - began

    def read(self) -> tuple[float, dict[str, float]]:
        """Seconds since the start, and by phase with `other`: they add up. Waits for the device."""
        assert self._runs, "the stopwatch was started"
        self._collect()
        total = time.perf_counter() - self._started
        # A device's clock is not the host's; their difference must not become a negative rest.
        other = max(0.0, total - sum(self._seconds.values()))
        seconds = {**self._seconds, "other": other}
        return sum(seconds.values()), seconds

    def _collect(self) -> None:
        self._synchronize()
        for name, first, last in self._pending:
            self._seconds[name] += first.elapsed_time(last) / 1000
        self._pending.clear()

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@dataclass(eq=False)
class FoldProfiler:
    """Traces the end of the first epoch of an attempt, and measures the epochs after it.

    The first epoch is not measured, unless it is the only one: torch chooses kernels and allocates
    memory in it, and the trace slows it down. With several ranks only the first is measured: all do
    the same at the same time, and each phase includes waiting for the others.

    steps: per epoch. images: per epoch. epochs_done: by earlier attempts.
    """

    task: ModelTask
    device: torch.device
    ranks: int
    steps: int
    images: int
    epochs_done: int

    def __post_init__(self) -> None:
        self.phases = Stopwatch(self.device)
        self._traced_epoch = self.epochs_done + 1
        is_last = self._traced_epoch == self.task.config.epochs
        self._first_counted = self._traced_epoch + (0 if is_last else 1)
        self._trace: profile | None = None
        self._is_tracing = False

    def __enter__(self) -> FoldProfiler:
        return self

    def __exit__(self, *error: object) -> None:
        """End a running trace, because the process may train further folds."""
        if self._is_tracing:
            self._end_trace()

    def before_epoch(self, epoch: int) -> None:
        if epoch == self._first_counted:
            self.phases.start()
        if epoch == self._traced_epoch and self.steps <= TRACED_STEPS:
            self._begin_trace()

    def after_step(self, epoch: int, done: int) -> None:
        """Begin or end the trace, if this is the step; `done` counts from 1."""
        if epoch != self._traced_epoch:
            return
        if done == self.steps - TRACED_STEPS:
            self._begin_trace()
        if done == self.steps:
            self._end_trace()

    def finish(self, epoch: int) -> list[str]:
        """Write the profile into the config's folder; returns lines for the log.

        epoch: the last one.
        """
        task = self.task
        if self._trace is None or epoch < self._first_counted:
            return ["NOTE: --profile found no epoch left to measure"]
        total, seconds = self.phases.read()
        epochs = epoch - self._first_counted + 1
        found = FoldProfile(
            config=task.name,
            fold=task.fold,
            device=str(self.device),
            first_epoch=self._first_counted,
            last_epoch=epoch,
            steps=self.steps * epochs,
            images=self.images * epochs,
            total_seconds=total,
            seconds=seconds,
            ranks=self.ranks,
        )
        trace = task.config_paths.trace(task.fold)
        trace.parent.mkdir(exist_ok=True)
        temporary = trace.with_name(f".{trace.name}")  # torch compresses by the suffix
        try:
            self._trace.export_chrome_trace(str(temporary))
            temporary.replace(trace)
        finally:
            temporary.unlink(missing_ok=True)
        found.write(task.config_paths.profile(task.fold))
        return [
            "",
            found.title,
            *(f"  {name:<14}{text:>12} s {share:>6} %" for name, text, share in found.rows()),
            f"Trace of {min(self.steps, TRACED_STEPS)} step(s){found.rank_note}: {trace}",
        ]

    def _begin_trace(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it reports each start and stop
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._trace = profile(activities=activities)
        self._trace.start()
        self._is_tracing = True

    def _end_trace(self) -> None:
        assert self._trace is not None, "a trace was begun"
        self._trace.stop()
        self._is_tracing = False
