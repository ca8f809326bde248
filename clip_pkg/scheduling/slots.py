"""Slots: the places where one fold runs at a time, and which of them are free.

A slot is one GPU, a share of one (`--jobs-per-gpu`), the CPU, or a place in a cluster's queue. A
fold that needs several GPUs takes as many slots on different devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from clip_pkg.scheduling.devices import Device


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
