"""What the loop asks of an executor: submit a task to a device, look at the job, cancel it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from clip_pkg.planning.tasks import FoldTask
from clip_pkg.scheduling.devices import Device


class JobState(Enum):
    """Where a job is. Only DONE means that a valid result file exists."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Assignment:
    """A task on its way to a device. `threads` is the share of the CPU for it."""

    task: FoldTask
    device: Device
    log_file: Path
    threads: int


class Job(Protocol):
    """One assignment under way."""

    @property
    def assignment(self) -> Assignment:
        """What it carries out."""
        ...

    def poll(self) -> JobState:
        """Return the state now, without waiting."""
        ...

    def stop(self) -> None:
        """Ask for a checkpoint and an end."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...


class Executor(Protocol):
    """Carries out assignments; at most one per device at a time."""

    def submit(self, assignment: Assignment) -> Job:
        """Start."""
        ...

    def close(self) -> None:
        """Leave no process behind."""
        ...
