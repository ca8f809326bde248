"""Devices divided into slots, and the contract between the loop and its executors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from clip_pkg.base.files import remove
from clip_pkg.scheduling.devices import Device
from clip_pkg.study.tasks import FoldFailure, Task, write_task
from clip_pkg.training.worker import TaskPlacement


@dataclass(frozen=True, order=True)
class Slot:
    """Slot `number` of a device, counted from 0."""

    device: Device
    number: int = 0

    @property
    def name(self) -> str:
        """Unique within a run."""
        return f"{self.device.id}.{self.number}"


@dataclass
class SlotPool:
    """Free and busy slots of a run. Devices can be set aside or get more slots."""

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
        """Number of slots that are not set aside."""
        return len(self._free) + len(self._busy)

    @property
    def usable_devices(self) -> int:
        """Number of devices that are not set aside."""
        return sum(1 for device in self.devices if device.id not in self.set_aside)

    def free(self) -> list[Slot]:
        """Free slots in the order in which they should be leased."""
        return list(self._free)

    def lease(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            self._free.remove(slot)
            self._busy.add(slot)

    def release(self, slots: Sequence[Slot]) -> None:
        """Return slots; those of a device that was set aside in the meantime are removed."""
        for slot in slots:
            self._busy.remove(slot)
            if slot.device.id not in self.set_aside and slot.number < self._sizes[slot.device.id]:
                self._free.append(slot)
        position = {device: number for number, device in enumerate(self.devices)}
        self._free.sort(key=lambda slot: (slot.number, position[slot.device]))

    def is_idle(self, device: Device) -> bool:
        """Whether no fold of this run is on the device."""
        return all(slot.device != device for slot in self._busy)

    def put_aside(self, device: Device, reason: str) -> None:
        """Start nothing more on the device; folds that run there continue."""
        self.set_aside[device.id] = reason
        self._free = [slot for slot in self._free if slot.device != device]

    def grow(self, device: Device, jobs: int) -> None:
        """Let up to `jobs` folds share the device; never reduces the number."""
        if device.id in self.set_aside:
            return
        for number in range(self._sizes[device.id], jobs):
            self._free.append(Slot(device, number))
        self._sizes[device.id] = max(jobs, self._sizes[device.id])


class JobState(Enum):
    """State of a job. DONE means that a valid result file exists."""

    QUEUED = "queued"  # submitted to a cluster that has not started it
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def is_over(self) -> bool:
        """Whether the state is final."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class Assignment:
    """A task and the slots it runs on.

    slots: one per GPU of the task, each on a different device. threads: CPU threads of the task.
    attempt: counts from 1.
    """

    task: Task
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
        """Display name of the devices: `gpu0`, `gpu0+gpu1`, `cpu`."""
        return "+".join(slot.device.log_tag for slot in self.slots)

    @property
    def place(self) -> TaskPlacement:
        """Where a worker runs it."""
        ids = "+".join(slot.device.id for slot in self.slots)
        return TaskPlacement(self.device.torch_name, ids, self.threads, str(self.log_file))


class Job(Protocol):
    """An assignment that was submitted."""

    @property
    def process(self) -> str:
        """Identifies it for users: `pid 4711`, `Slurm job 12_3`; empty while unknown."""
        ...

    @property
    def failure(self) -> FoldFailure | None:
        """Why it failed, if it has."""
        ...

    def poll(self) -> JobState:
        """Return the current state without waiting."""
        ...

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        ...

    def kill(self) -> None:
        """End it now; a later poll returns FAILED or INTERRUPTED."""
        ...


class Executor(Protocol):
    """Runs assignments, at most one per slot at a time."""

    def submit(self, assignments: Sequence[Assignment]) -> Sequence[Job]:
        """Start them, or submit them to a cluster; returns their jobs in the same order."""
        ...

    def close(self) -> None:
        """Leave no process behind."""
        ...


def write_fresh_task(task: Task) -> None:
    """Write the task file of this attempt and remove the failure of an earlier one."""
    remove(task.paths.failure)
    write_task(task)
