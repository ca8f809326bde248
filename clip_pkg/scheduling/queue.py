"""The order of tasks: longest first, so that the devices finish at about the same time.

Graham 1969 (SIAM J. Appl. Math. 17) bounds the makespan of this order by 4/3 of the optimum.
Pre-trainings come before everything else; folds that depend on one wait until it is done.

The duration of a fold is estimated as the mean of the finished folds of its config, else as its
number of pixels times the speed of finished folds with the same image encoder.
"""

from __future__ import annotations

import bisect
import heapq
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Slot
from clip_pkg.study.tasks import PretrainTask, Task

DRIFT = 0.05  # relative change of a speed after which the queue is sorted again
MAX_DURATIONS = 50  # the latest ones that an estimate is made of
TYPICAL_SECONDS_PER_GIGAPIXEL = 10.0  # until a fold has finished; only ratios matter then

_Entry: TypeAlias = "tuple[int, float, int, int, tuple[str, str | None]]"


def pixels(task: Task) -> float:
    """Gigapixels that the training of a fold processes: images × epochs × pixels per image."""
    config = task.config
    return task.images_per_epoch * config.epochs * config.img_size**2 / 1e9


class Estimates:
    """Expected durations of folds, learned from finished ones."""

    def __init__(self) -> None:
        self._of_config: dict[str, deque[float]] = {}
        self._speeds: dict[str, deque[float]] = {}  # seconds per gigapixel
        self._speed: dict[str, float] = {}  # their medians
        self._overall: float | None = None

    @property
    def knows_anything(self) -> bool:
        """Whether a fold has finished; until then only ratios of estimates are meaningful."""
        return self._overall is not None

    def knows(self, task: Task) -> bool:
        """Whether a fold with this image encoder has finished."""
        return encoder_of(task) in self._speed

    def learn(self, task: Task, seconds: float) -> None:
        """Add the duration of a finished fold."""
        encoder = encoder_of(task)
        durations = self._of_config.setdefault(task.identity.config, deque(maxlen=MAX_DURATIONS))
        durations.append(seconds)
        speeds = self._speeds.setdefault(encoder, deque(maxlen=MAX_DURATIONS))
        speeds.append(seconds / max(pixels(task), 1e-12))
        self._speed[encoder] = statistics.median(speeds)
        self._overall = statistics.median(self._speed.values())

    def seconds(self, task: Task) -> float:
        """Expected duration of a fold in seconds."""
        known = self._of_config.get(task.identity.config)
        return statistics.fmean(known) if known else self.speed(task) * pixels(task)

    def speed(self, task: Task) -> float:
        """Seconds per gigapixel of this encoder, else of all encoders, else a guess."""
        if self._overall is None:
            return TYPICAL_SECONDS_PER_GIGAPIXEL
        return self._speed.get(encoder_of(task), self._overall)


def encoder_of(task: Task) -> str:
    """Key of the speeds: the image encoder, and whether it is frozen or pre-trained."""
    name = task.config.image_encoder_name
    if isinstance(task, PretrainTask):
        return f"{name}, pre-training"
    return f"{name}, frozen" if task.config.freeze_image_encoder else name


def seconds_left(
    tasks: Iterable[Task], shares: Mapping[str, float], estimates: Estimates, slots: int
) -> float:
    """Expected seconds until all tasks are done.

    shares: label → finished share, 0 to 1, also of tasks that wait and will resume.
    """
    work = sum(estimates.seconds(task) * (1 - shares.get(task.display_name, 0.0)) for task in tasks)
    return work / max(1, slots)


@dataclass
class _Group:
    """Waiting tasks of one config in the given order; their expected durations are equal."""

    sample: Task
    pin: str | None
    tasks: list[tuple[int, Task]] = field(default_factory=list)
    version: int = 0


def pins(tasks: Iterable[Task], devices: Sequence[Device]) -> Sequence[str]:
    """Ids of the devices that the `gpu_id` of a config may choose.

    None if every config names the same one of several, as examples do: then the devices decide.
    """
    named = {task.config.gpu_id for task in tasks}
    return () if len(named) == 1 and len(devices) > 1 else [device.id for device in devices]


class TaskQueue:
    """Waiting tasks: first one of each image encoder of unknown speed, then the longest.

    Ties keep the given order. Tasks that depend on a pre-training among `tasks` are held back until
    `withdraw` returns them. A task whose config has a `gpu_id` among the `listed` device ids waits
    for that device; any other `gpu_id` is ignored.
    """

    def __init__(self, tasks: Iterable[Task], estimates: Estimates, listed: Sequence[str]) -> None:
        self.estimates = estimates
        self._listed = frozenset(listed)
        self._order: dict[tuple[Path, int], int] = {}
        self._groups: dict[tuple[str, str | None], _Group] = {}
        # By pin: (rank, ±seconds, order, version, key); entries of outdated versions are skipped.
        self._heaps: dict[str | None, list[_Entry]] = {}
        self._probed: set[str] = set()  # encoders of which a task has started
        self._sorted_by: dict[str, float] = {}  # encoder → speed at the last sort
        self._count = 0
        self._version = 0
        given = list(tasks)
        # By the folder of the unfinished pre-training that they depend on.
        self._held: dict[Path, list[Task]] = {
            task.run_dir: [] for task in given if isinstance(task, PretrainTask)
        }
        for task in given:
            self.add(task)

    def __len__(self) -> int:
        return self._count

    def add(self, task: Task) -> None:
        """Add a task, or return it: its place among ties stays."""
        order = self._order.setdefault((task.run_dir, task.fold), len(self._order))
        if not isinstance(task, PretrainTask) and task.starts_from in self._held:
            self._held[task.starts_from].append(task)
            self._count += 1
            return
        pinned = task.config.gpu_id
        pin = None if pinned is None or str(pinned) not in self._listed else str(pinned)
        key = (task.identity.config, pin)
        group = self._groups.setdefault(key, _Group(task, pin))
        bisect.insort(group.tasks, (order, task), key=lambda one: one[0])
        self._count += 1
        if group.tasks[0][0] == order:
            self._push(key)

    def learn(self, task: Task, seconds: float) -> None:
        """Add a duration; sorts again if that can change the order."""
        self.estimates.learn(task, seconds)
        for pin in (None, *self._listed):
            if (task.identity.config, pin) in self._groups:
                self._push((task.identity.config, pin))
        encoder, speed = encoder_of(task), self.estimates.speed(task)
        if abs(speed - self._sorted_by.get(encoder, 0.0)) > DRIFT * speed:
            self._sorted_by[encoder] = speed
            self._heaps.clear()
            for key in self._groups:
                self._push(key)

    def peek(self, slot: Slot) -> Task | None:
        """Return the next task for this slot, or None."""
        group = self._best(slot)
        return group.tasks[0][1] if group else None

    def take(self, slot: Slot) -> Task | None:
        """Remove and return the next task for this slot, or None."""
        group = self._best(slot)
        if group is None:
            return None
        _, task = group.tasks.pop(0)
        self._count -= 1
        self._probed.add(encoder_of(task))
        self._push((task.identity.config, group.pin))
        return task

    def unlist(self, device_id: str) -> None:
        """Unpin the tasks of a device that is no longer used."""
        self._listed -= {device_id}
        for task in self._removed([key for key in self._groups if key[1] == device_id]):
            self.add(task)

    def withdraw(self, pretraining: PretrainTask) -> list[Task]:
        """Remove and return the tasks that depend on a pre-training, in the given order."""
        held = self._held.pop(pretraining.run_dir, [])
        self._count -= len(held)
        return held

    def clear(self) -> list[Task]:
        """Remove and return all tasks, in the given order."""
        held = [task for tasks in self._held.values() for task in tasks]
        self._held.clear()
        self._count -= len(held)
        everything = [*held, *self._removed(list(self._groups))]
        return sorted(everything, key=lambda task: self._order[task.run_dir, task.fold])

    def _removed(self, keys: Iterable[tuple[str, str | None]]) -> list[Task]:
        tasks = sorted(
            (entry for key in keys for entry in self._groups.pop(key).tasks),
            key=lambda entry: entry[0],
        )
        self._count -= len(tasks)
        return [task for _, task in tasks]

    def _push(self, key: tuple[str, str | None]) -> None:
        """Push an entry for the first task of a group; its earlier entries are outdated."""
        group = self._groups[key]
        self._version += 1
        group.version = self._version
        if not group.tasks:
            del self._groups[key]
            return
        order, task = group.tasks[0]
        probes = encoder_of(task) not in self._probed and not self.estimates.knows(task)
        seconds = self.estimates.seconds(task)
        # A probe measures the speed of its encoder: the shortest task gives it soonest.
        rank = (0, seconds) if probes else (1, -seconds)
        if isinstance(task, PretrainTask):
            rank = (-1, -seconds)
        heapq.heappush(self._heaps.setdefault(group.pin, []), (*rank, order, group.version, key))

    def _top(self, pin: str | None) -> _Entry | None:
        heap = self._heaps.get(pin, [])
        while heap:
            entry = heap[0]
            group = self._groups.get(entry[4])
            if group is not None and group.version == entry[3]:
                if entry[0] != 0 or encoder_of(group.sample) not in self._probed:
                    return entry
                self._push(entry[4])  # a probe of its encoder has started in the meantime
            heapq.heappop(heap)
        return None

    def _best(self, slot: Slot) -> _Group | None:
        tops = [top for pin in (slot.device.id, None) if (top := self._top(pin)) is not None]
        return self._groups[min(tops)[4]] if tops else None
