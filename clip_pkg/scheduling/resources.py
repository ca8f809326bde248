"""Resources of a run: the user's options, and the devices and executor that follow from them."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal, TypeAlias

from clip_pkg.base.cores import usable_cores
from clip_pkg.base.errors import UserError
from clip_pkg.scheduling.devices import (
    Device,
    DeviceGate,
    GpuGate,
    find_devices,
    gpu_memory,
    mps_is_running,
    parse_ids,
)
from clip_pkg.scheduling.job import Executor
from clip_pkg.scheduling.queue import pins
from clip_pkg.scheduling.slurm_options import SlurmOptions
from clip_pkg.study.tasks import Task, finished

JobsPerDevice: TypeAlias = int | Literal["auto"]

AUTO = "auto"
RETRIES = 2
STALL_TIMEOUT = 1800.0
MAX_JOBS_PER_GPU = 8  # beyond that the cores of the machine are the limit
USABLE_SHARE = 0.9  # of a GPU's memory
CONTEXT_BYTES = 700 << 20  # of a CUDA process, beyond its tensors


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where folds are trained, and what happens when one fails.

    executor: a row of `EXECUTORS`. gpus: indices or UUIDs, comma-separated; None: all.
    folds_at_once, jobs_per_gpu: folds that share a device. wait_for_gpu: seconds to wait for a GPU
    that others use. ray_address, slurm: options of these executors. retries: further attempts
    after a failure. stall_timeout: seconds without a step after which a fold counts as failed.
    """

    executor: str = "process"
    gpus: str | None = None
    folds_at_once: JobsPerDevice | None = None
    jobs_per_gpu: JobsPerDevice | None = None
    wait_for_gpu: float = 0.0
    ray_address: str | None = None
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    retries: int = RETRIES
    fail_fast: bool = False
    stall_timeout: float = STALL_TIMEOUT

    @property
    def share(self) -> JobsPerDevice:
        """How many folds share a device."""
        return self.folds_at_once or self.jobs_per_gpu or 1


class StopOnSignal:
    """Becomes true on Ctrl-C or SIGTERM; the second one ends the program at once."""

    def __init__(self) -> None:
        self._asked = False

    def __bool__(self) -> bool:
        return self._asked

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        del number, frame
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        # Not print: this may have interrupted one, in the middle of its buffer.
        with suppress(OSError):
            os.write(1, b"\nStopping after a checkpoint; press Ctrl-C again to stop now.\n")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handle signals while folds run; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Devices of a run and the executor that runs tasks on them.

    gate: checks a device before it is used. jobs_that_fit: how many folds like a finished one fit
    on a device; None for a fixed number. most_gpus: for one fold; None if only the cluster knows.
    queue: kind of cluster whose queue the devices are places in, one per task.
    cancel_leftovers: ends jobs of an earlier launcher, before their results are moved.
    """

    devices: Sequence[Device]
    executor: Executor
    jobs_per_device: int = 1
    gate: DeviceGate | None = None
    stop: StopOnSignal = field(default_factory=StopOnSignal)
    notices: Sequence[str] = ()
    most_gpus: int | None = None
    jobs_that_fit: Callable[[Device, Task], int] | None = None
    queue: str = ""
    cancel_leftovers: Callable[[], None] = lambda: None

    def slots_for(self, task: Task) -> int:
        """Number of slots that a task takes: one per GPU, or one place in a queue."""
        return 1 if self.queue else task.gpus

    def most_jobs(self, tasks: Sequence[Task]) -> int:
        """Maximum number of these tasks on one device, if all run at once.

        Finished ones count, so that a resumed run shares the cores as before.
        """
        slots = sum(map(self.slots_for, tasks))
        listed = pins(tasks, self.devices)
        pinned = any(str(task.config.gpu_id) in listed for task in tasks)
        return slots if pinned else math.ceil(slots / len(self.devices))

    def places_for(self, tasks: int, most: int | None) -> Sequence[Device]:
        """Devices for this number of tasks, at most `most` of a queue's places."""
        if not self.queue:
            return self.devices
        return queue_places(self.queue, max(1, min(most or tasks, tasks)))


def queue_places(queue: str, count: int) -> tuple[Device, ...]:
    """Places in the queue of a cluster."""
    name = queue.capitalize()
    return tuple(Device(f"{queue}-{n}", "", name, cluster=queue) for n in range(1, count + 1))


def check_gpus_per_task(tasks: Sequence[Task], resources: Resources) -> None:
    """Raise UserError if a fold needs more GPUs than it can get."""
    most = resources.most_gpus
    for task in tasks:
        if most is not None and task.gpus > most:
            where = "a node of this cluster" if resources.devices[0].cluster else "this run"
            raise UserError(
                f"{task.name}: gpus_per_task is {task.gpus}, but {where} has {most} device(s); "
                "list more with --gpus or lower it"
            )


def local_resources(execution: Execution, executor: Executor, stop: StopOnSignal) -> Resources:
    """Devices of this machine, with an executor. Raises UserError for those that do not exist."""
    wanted = None if execution.gpus is None else parse_ids(execution.gpus)
    devices, notices = find_devices(wanted)
    has_gpu = devices[0].is_gpu
    share = execution.share
    if has_gpu and execution.folds_at_once not in (None, 1) and not mps_is_running(os.environ):
        notices.append(
            "Folds take turns on a GPU: no Multi-Process Service is running "
            "(docs/scheduling.md shows how to start one)."
        )
    if share == AUTO and not has_gpu:
        notices.append(
            "auto depends on the memory of a GPU; on the CPU folds run one after another. Give a "
            "number to let them share its cores."
        )
    return Resources(
        devices=devices,
        executor=executor,
        jobs_per_device=share if isinstance(share, int) else 1,
        gate=GpuGate(patience=execution.wait_for_gpu) if has_gpu else None,
        stop=stop,
        notices=notices,
        most_gpus=len(devices),
        jobs_that_fit=jobs_that_fit if share == AUTO and has_gpu else None,
    )


def jobs_that_fit(device: Device, task: Task) -> int:
    """How many folds like this finished one fit on a GPU, by the memory that it took."""
    result = finished(task)
    if result is None or result.peak_memory_bytes is None:
        return 1
    room = USABLE_SHARE * gpu_memory(device).total
    fitting = int(room // (result.peak_memory_bytes + CONTEXT_BYTES))
    return max(1, min(fitting, MAX_JOBS_PER_GPU, usable_cores()))
