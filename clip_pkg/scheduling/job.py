"""What the loop asks of an executor: submit a task to slots, look at the job, cancel it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from clip_pkg.scheduling.devices import Device
from clip_pkg.study.tasks import FoldFailure, FoldTask, write_record


@dataclass(frozen=True, order=True)
class Slot:
    """The `number`-th place on a device, from 0."""

    device: Device
    number: int = 0

    @property
    def name(self) -> str:
        """Unique within a run."""
        return f"{self.device.id}.{self.number}"


@dataclass
class SlotPool:
    """Free and busy slots of a run; devices can be set aside, and get more slots."""

    devices: Sequence[Device]
    jobs_per_device: int = 1
    set_aside: dict[str, str] = field(default_factory=dict)  # device id → reason
    _free: list[Slot] = field(default_factory=list)
    _busy: set[Slot] = field(default_factory=set)
    _sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.jobs_per_device >= 1, "a device holds at least one fold"
        # The first slots of all devices come before the second ones: folds spread out first.
        for number in range(self.jobs_per_device):
            self._free += [Slot(device, number) for device in self.devices]
        self._sizes = {device.id: self.jobs_per_device for device in self.devices}

    @property
    def size(self) -> int:
        """Slots that are not set aside."""
        return len(self._free) + len(self._busy)

    @property
    def usable_devices(self) -> int:
        """Devices that are not set aside."""
        return sum(1 for device in self.devices if device.id not in self.set_aside)

    def free(self) -> list[Slot]:
        """Slots that may be leased, in the order in which they should be."""
        return list(self._free)

    def lease(self, slots: Sequence[Slot]) -> None:
        """Take free slots."""
        for slot in slots:
            self._free.remove(slot)
            self._busy.add(slot)

    def release(self, slots: Sequence[Slot]) -> None:
        """Give slots back; those of a device that was set aside meanwhile are gone."""
        for slot in slots:
            self._busy.remove(slot)
            if slot.device.id not in self.set_aside and slot.number < self._sizes[slot.device.id]:
                self._free.append(slot)
        self._free.sort(key=lambda slot: (slot.number, self._position(slot.device)))

    def is_idle(self, device: Device) -> bool:
        """Whether nothing of this run is on the device."""
        return all(slot.device != device for slot in self._busy)

    def put_aside(self, device: Device, reason: str) -> None:
        """Lease the device to nobody any more; what runs there ends there."""
        self.set_aside[device.id] = reason
        self._free = [slot for slot in self._free if slot.device != device]

    def grow(self, device: Device, jobs: int) -> None:
        """Let up to `jobs` folds share the device, if that is more than now."""
        if device.id in self.set_aside:
            return
        for number in range(self._sizes[device.id], jobs):
            self._free.append(Slot(device, number))
        self._sizes[device.id] = max(jobs, self._sizes[device.id])

    def _position(self, device: Device) -> int:
        return list(self.devices).index(device)


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
