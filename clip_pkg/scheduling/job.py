"""What the loop asks of an executor: submit a task to slots, look at the job, cancel it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from clip_pkg.planning.tasks import FoldFailure, FoldTask, write_record
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.slots import Slot


class JobState(Enum):
    """Where a job is. Only DONE means that a valid result file exists."""

    QUEUED = "queued"  # with a cluster that has not begun it
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def is_over(self) -> bool:
        """Whether it stays that way."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class Assignment:
    """A task on its way to its slots.

    slots: as many as the task needs GPUs, each on a device of its own. threads: the task's share
    of the CPU. attempt: counts from 1.
    """

    task: FoldTask
    slots: tuple[Slot, ...]
    log_file: Path
    threads: int
    attempt: int = 1

    @property
    def device(self) -> Device:
        """The device, or the first of several."""
        return self.slots[0].device

    @property
    def tag(self) -> str:
        """How people call where it runs: `gpu0`, `gpu0+gpu1`, `cpu`."""
        return "+".join(slot.device.log_tag for slot in self.slots)

    @property
    def place(self) -> dict[str, Any]:
        """Where a worker is to run it; see `worker.Place`."""
        return {
            "device": self.device.torch_name,
            "device_id": "+".join(slot.device.id for slot in self.slots),
            "threads": self.threads,
            "log_file": str(self.log_file),
        }


class Job(Protocol):
    """One assignment under way."""

    @property
    def assignment(self) -> Assignment:
        """What it carries out."""
        ...

    @property
    def process(self) -> str:
        """How to find it: `pid 4711`, `Slurm job 12_3`; empty while nobody knows."""
        ...

    @property
    def failure(self) -> FoldFailure | None:
        """Why it failed, if it has."""
        ...

    def poll(self) -> JobState:
        """Return the state now, without waiting."""
        ...

    def stop(self) -> None:
        """Ask for a checkpoint and an end."""
        ...

    def kill(self) -> None:
        """End it now; the next poll says FAILED or INTERRUPTED."""
        ...


class Executor(Protocol):
    """Carries out assignments; at most one per slot at a time."""

    def submit(self, assignment: Assignment) -> Job:
        """Start, or hand to a cluster."""
        ...

    def batch(self) -> AbstractContextManager[None]:
        """Submissions within one batch may travel together, as a cluster's array of jobs."""
        ...

    def close(self) -> None:
        """Leave no process behind."""
        ...


def lay_out(task: FoldTask) -> None:
    """Put the task where workers look for it, as this attempt has it, and no older failure beside.

    Another attempt can be of a changed task, and a worker knows only what is in the file.
    """
    task.paths.failure.unlink(missing_ok=True)
    write_record(task.paths.task, task)
