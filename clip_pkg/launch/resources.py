"""Where a run takes place, as the command line asks: devices or a cluster, and who works there."""

from __future__ import annotations

import argparse
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from clip_pkg.base.errors import UserError
from clip_pkg.base.paths import RunPaths
from clip_pkg.cli.ray_flags import check_ray_flags
from clip_pkg.cli.sharing_flags import AUTO, check_sharing_flags, folds_per_device
from clip_pkg.cli.slurm_flags import check_slurm, slurm_options
from clip_pkg.launch.terminal import Terminal
from clip_pkg.scheduling.devices import (
    Device,
    DeviceGate,
    GpuGate,
    OpenGate,
    find_devices,
    gpu_memory,
    mps_is_running,
    parse_ids,
    usable_cores,
)
from clip_pkg.scheduling.inline import InlineExecutor
from clip_pkg.scheduling.job import Executor, Slot
from clip_pkg.scheduling.process import ProcessExecutor
from clip_pkg.scheduling.slurm_options import SlurmOptions
from clip_pkg.study.tasks import FoldResult, Task, read_record

if TYPE_CHECKING:
    from clip_pkg.scheduling.slurm import SlurmExecutor

MOST_JOBS_PER_GPU = 8  # beyond that the host's cores are the limit
USABLE_SHARE = 0.9  # of a GPU's memory
CONTEXT_BYTES = 700 << 20  # of a CUDA process, beyond what its tensors take


class StopOnSignal:
    """Becomes true when Ctrl-C or SIGTERM comes; the second one ends the program at once."""

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
        print("\nStopping after a checkpoint; once more to stop now.", flush=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Listen while the folds run; only the main thread of a process can."""
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


@dataclass(frozen=True)
class Resources:
    """Devices, who carries tasks out there, and who checks the devices.

    jobs_that_fit: how many folds like a finished one a device holds; None where nobody asks.
    most_gpus: that one fold can have; None where only a cluster's queue can tell.
    slurm: the executor too, where it is Slurm; its devices are places in the queue, of which there
    are as many as anybody wants.
    """

    devices: Sequence[Device]
    jobs_per_device: int
    executor: Executor
    gate: DeviceGate
    stop: StopOnSignal
    notices: Sequence[str]
    most_gpus: int | None
    jobs_that_fit: Callable[[Device, Task], int] | None = None
    slurm: SlurmExecutor | None = None

    @property
    def first_slot(self) -> Slot:
        """Where the first fold will run."""
        return Slot(self.devices[0])

    def slots_for(self, task: Task) -> int:
        """Slots that a task takes: one per GPU, or one place in a queue."""
        return 1 if self.slurm is not None else task.gpus

    def most_jobs(self, tasks: Sequence[Task]) -> int:
        """How many of these tasks a device has to hold at most, when all run at once.

        Finished ones count, so that a run that goes on shares out the cores as it did before.
        """
        slots = sum(map(self.slots_for, tasks))
        pinned = any(task.config.gpu_id is not None for task in tasks)
        return slots if pinned else math.ceil(slots / len(self.devices))

    def places_for(self, tasks: int, most: int | None) -> Sequence[Device]:
        """Devices for so many tasks, at most `most` of a queue's places."""
        if self.slurm is None:
            return self.devices
        return queue_places(max(1, min(most or tasks, tasks)))


def find_resources(parsed: argparse.Namespace, terminal: Terminal) -> Resources:
    """Choose devices and executor. Raises UserError for those that are not there."""
    check_sharing_flags(parsed)
    check_ray_flags(parsed)
    options = slurm_options(parsed)
    if parsed.executor == "ray":
        return _in_ray(parsed)
    if options is not None:
        return _on_slurm(parsed, options, terminal)
    return _on_this_machine(parsed)


def _on_this_machine(parsed: argparse.Namespace) -> Resources:
    stop = StopOnSignal()
    wanted = None if parsed.gpus is None else parse_ids(parsed.gpus)
    devices, notices = find_devices(wanted)
    share = folds_per_device(parsed)
    has_gpu = devices[0].is_gpu
    executor: Executor
    if parsed.executor == "inline":
        devices = devices[:1]
        executor = InlineExecutor(stop)
    else:
        executor = ProcessExecutor()
    if has_gpu and parsed.folds_at_once not in (None, 1) and not mps_is_running(os.environ):
        notices.append(
            "Folds take turns on a GPU: no Multi-Process Service is running "
            "(docs/scheduling.md shows how to start one)."
        )
    if share == AUTO and not has_gpu:
        notices.append(
            "auto goes by the memory of a GPU; on the CPU folds run one after another. A number "
            "lets them share its cores."
        )
    return Resources(
        devices=devices,
        jobs_per_device=share if isinstance(share, int) else 1,
        executor=executor,
        gate=GpuGate(patience=parsed.wait_for_gpu) if has_gpu else OpenGate(),
        stop=stop,
        notices=notices,
        most_gpus=len(devices),
        jobs_that_fit=jobs_that_fit if share == AUTO and has_gpu else None,
    )


def _in_ray(parsed: argparse.Namespace) -> Resources:
    from clip_pkg.scheduling.ray import RayExecutor, places  # noqa: PLC0415
    from clip_pkg.scheduling.ray_connection import connect, lay_out  # noqa: PLC0415

    connection = connect(parsed.ray_address or AUTO)
    try:
        nodes = connection.nodes()
        layout = lay_out(nodes, parsed.jobs_per_gpu or 1)
    except UserError:
        connection.close()
        raise
    executor = RayExecutor(connection, layout)
    kind = "GPU" if layout.gpus else "share of CPUs"
    return Resources(
        devices=places(layout),
        jobs_per_device=layout.jobs,
        jobs_that_fit=executor.jobs_on,
        executor=executor,
        gate=OpenGate(),
        stop=StopOnSignal(),
        notices=[
            f"Ray cluster {connection.address}: {len(nodes)} node(s), {layout.places} place(s) of "
            f"one {kind} with {layout.threads(1)} CPU thread(s) per fold."
        ],
        most_gpus=layout.most_gpus,
    )


def _on_slurm(parsed: argparse.Namespace, options: SlurmOptions, terminal: Terminal) -> Resources:
    check_slurm()
    from clip_pkg.scheduling.slurm import SlurmExecutor  # noqa: PLC0415 - needs submitit
    from clip_pkg.training.worker import run_task  # noqa: PLC0415

    run = RunPaths(parsed.output_dir.resolve())
    executor = SlurmExecutor(
        run_task, options, run.slurm, lambda text: terminal.line(f"NOTE: {text}", "yellow")
    )
    notices = []
    if parsed.gpus is not None:
        notices.append(f"GPUs {parsed.gpus} are not looked at: Slurm chooses them.")
    if not options.asks_for_gpus:
        notices.append("The jobs ask for no GPU (--gres gpu:1): folds train on the CPU.")
    return Resources(
        devices=queue_places(options.max_jobs or 1),
        jobs_per_device=1,
        executor=executor,
        gate=OpenGate(),
        stop=StopOnSignal(),
        notices=notices,
        most_gpus=None,
        slurm=executor,
    )


def queue_places(count: int) -> tuple[Device, ...]:
    """So many places in the queue of a Slurm cluster."""
    return tuple(Device(f"slurm-{n}", "", "Slurm", cluster="slurm") for n in range(1, count + 1))


def check_gpus_per_task(tasks: Sequence[Task], resources: Resources) -> None:
    """Raise UserError when a fold wants more GPUs than it can have."""
    most = resources.most_gpus
    for task in tasks:
        if most is not None and task.gpus > most:
            where = "a node of this cluster" if resources.devices[0].cluster else "this run"
            raise UserError(
                f"{task.name}: gpus_per_task is {task.gpus}, but {where} has {most} device(s); "
                "list more with --gpus or lower it"
            )


def jobs_that_fit(device: Device, task: Task) -> int:
    """How many folds like this finished one a GPU holds, by the memory that it took."""
    result = read_record(FoldResult, task.paths.result)
    if result is None or result.peak_memory_bytes is None:
        return 1
    room = USABLE_SHARE * gpu_memory(device).total
    fitting = int(room // (result.peak_memory_bytes + CONTEXT_BYTES))
    return max(1, min(fitting, MOST_JOBS_PER_GPU, usable_cores()))
