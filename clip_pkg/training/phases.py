"""How long the phases of training take, measured where somebody asks for it and free elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeVar

import torch
from torch.profiler import record_function

from clip_pkg.study.progress import PHASES, Phase

Item = TypeVar("Item")
MOST_PENDING = 4096  # pairs of events on a GPU, before it is waited for
_NOTHING = nullcontext()


class Phases(Protocol):
    """Gives the context in which a phase runs. Phases never overlap."""

    def __call__(self, name: Phase, /) -> AbstractContextManager[object]:
        """Context in which the phase `name` runs."""
        ...


def unmeasured(name: Phase, /) -> AbstractContextManager[object]:
    """Measure nothing."""
    del name
    return _NOTHING


def fetched(items: Iterable[Item], phases: Phases) -> Iterator[Item]:
    """The same items, none of them None; the time until each one comes counts as `data`."""
    iterator = iter(items)
    while True:
        with phases("data"):
            found = next(iterator, None)
        if found is None:
            return
        yield found


class Stopwatch:
    """Adds up the seconds of each phase, and names the phases in traces of torch's profiler.

    On a GPU the time that counts is the device's: from when it reaches the first operation of a
    phase to when it has done the last, with its waiting for the host in between. Nobody waits for
    the device but now and then, for thousands of steps together.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._runs = False
        self._started = 0.0
        self._seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        """Count from here on; before, phases only have names."""
        self._synchronize()
        self._runs = True
        self._started = time.perf_counter()

    @contextmanager
    def __call__(self, name: Phase, /) -> Iterator[None]:
        """Count what happens inside as `name`."""
        with record_function(name):
            if not self._runs:
                yield
            elif self._device.type == "cuda":
                first, last = _event(), _event()
                first.record()
                yield
                last.record()
                self._pending.append((name, first, last))
                if len(self._pending) >= MOST_PENDING:
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


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
