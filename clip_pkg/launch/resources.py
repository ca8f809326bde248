"""Where a run takes place: the devices or the cluster of an `Execution`, and its executor."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from clip_pkg.base.errors import UserError
from clip_pkg.base.paths import RunPaths
from clip_pkg.launch.request import Execution, JobsPerDevice
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
from clip_pkg.study.tasks import FoldResult, Task, read_record

if TYPE_CHECKING:
    from clip_pkg.scheduling.slurm import SlurmExecutor

EXECUTORS = ("process", "inline", "ray", "slurm")
AUTO = "auto"
SLURM_COMMANDS = ("sbatch", "srun", "squeue", "scancel")
MAX_JOBS_PER_GPU = 8  # beyond that the host's cores are the limit
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
        print("\nStopping after a checkpoint; press Ctrl-C again to stop now.", flush=True)

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


def find_resources(execution: Execution, run: RunPaths, terminal: Terminal) -> Resources:
    """Choose devices and executor.

    Raises UserError for options that cannot be combined and devices that are not there.
    """
    _check(execution)
    if execution.executor == "ray":
        return _in_ray(execution)
    if execution.executor == "slurm":
        return _on_slurm(execution, run, terminal)
    return _on_this_machine(execution)


def _check(execution: Execution) -> None:
    """Raise UserError for options that contradict each other or the executor."""
    if execution.executor not in EXECUTORS:
        raise UserError(
            f"unknown executor {execution.executor!r}; choose from {', '.join(EXECUTORS)}"
        )
    _check_sharing(execution)
    _check_ray(execution)
    _check_slurm(execution)


def _check_sharing(execution: Execution) -> None:
    executor = execution.executor
    if execution.folds_at_once is not None and execution.jobs_per_gpu is not None:
        raise UserError("--folds-at-once and --jobs-per-gpu cannot be combined; give one")
    if executor == "inline" and _share(execution) != 1:
        raise UserError(
            "--executor inline trains one fold after another in this process; leave out "
            "--folds-at-once and --jobs-per-gpu, or the executor"
        )
    if executor in ("ray", "slurm") and execution.folds_at_once is not None:
        instead = " (--jobs-per-gpu N shares a GPU among N folds)" if executor == "ray" else ""
        raise UserError(
            "--folds-at-once applies to devices of this machine; leave it out with --executor "
            f"{executor}{instead}"
        )


def _check_ray(execution: Execution) -> None:
    if execution.executor != "ray":
        if execution.ray_address is not None:
            raise UserError("--ray-address applies to --executor ray only; give both, or neither")
        return
    if execution.gpus is not None or execution.wait_for_gpu:
        raise UserError(
            "--gpus, --gpu-id and --wait-for-gpu cannot be used with --executor ray, because Ray "
            "chooses the GPUs and waits for them; leave them out"
        )
    if execution.jobs_per_gpu == AUTO:
        raise UserError("--jobs-per-gpu auto cannot be used with --executor ray; give a number")


def _check_slurm(execution: Execution) -> None:
    if execution.executor != "slurm":
        slurm = execution.slurm
        given = {
            "--partition": slurm.partition,
            "--time": slurm.minutes,
            "--gres": slurm.gres,
            "--slurm-option": slurm.extra or None,
            "--max-jobs": slurm.max_jobs,
        }
        useless = [flag for flag, value in given.items() if value is not None]
        if useless:
            raise UserError(f"{' and '.join(useless)}: only with --executor slurm")
        return
    for flag, is_given in (
        ("--jobs-per-gpu", execution.jobs_per_gpu not in (None, 1)),
        ("--wait-for-gpu", execution.wait_for_gpu != 0),
    ):
        if is_given:
            raise UserError(f"{flag} applies to GPUs of this machine; leave it out on Slurm")


def _share(execution: Execution) -> JobsPerDevice:
    """How many folds share a device: a number, or `auto`."""
    return execution.folds_at_once or execution.jobs_per_gpu or 1


def _on_this_machine(execution: Execution) -> Resources:
    stop = StopOnSignal()
    wanted = None if execution.gpus is None else parse_ids(execution.gpus)
    devices, notices = find_devices(wanted)
    share = _share(execution)
    has_gpu = devices[0].is_gpu
    executor: Executor
    if execution.executor == "inline":
        devices = devices[:1]
        executor = InlineExecutor(stop)
    else:
        executor = ProcessExecutor()
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
        jobs_per_device=share if isinstance(share, int) else 1,
        executor=executor,
        gate=GpuGate(patience=execution.wait_for_gpu) if has_gpu else OpenGate(),
        stop=stop,
        notices=notices,
        most_gpus=len(devices),
        jobs_that_fit=jobs_that_fit if share == AUTO and has_gpu else None,
    )


def _in_ray(execution: Execution) -> Resources:
    from clip_pkg.scheduling.ray import RayExecutor, places  # noqa: PLC0415
    from clip_pkg.scheduling.ray_connection import connect, lay_out  # noqa: PLC0415

    connection = connect(execution.ray_address or AUTO)
    try:
        nodes = connection.nodes()
        share = _share(execution)
        assert isinstance(share, int), "checked"
        layout = lay_out(nodes, share)
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


def check_slurm() -> None:
    """Raise UserError where jobs cannot be submitted."""
    if importlib.util.find_spec("submitit") is None:
        raise UserError(
            '--executor slurm needs the submitit package: pip install "clip_pkg[slurm]"'
        )
    absent = [name for name in SLURM_COMMANDS if shutil.which(name) is None]
    if absent:
        raise UserError(
            f"--executor slurm: this machine has no {' and no '.join(absent)}; start the run where "
            "jobs are submitted, or leave out --executor to train here"
        )


def _on_slurm(execution: Execution, run: RunPaths, terminal: Terminal) -> Resources:
    check_slurm()
    from clip_pkg.scheduling.slurm import SlurmExecutor  # noqa: PLC0415 - needs submitit
    from clip_pkg.training.worker import run_task  # noqa: PLC0415

    options = execution.slurm
    executor = SlurmExecutor(run_task, options, run.slurm, terminal.note)
    notices = []
    if execution.gpus is not None:
        notices.append(f"--gpus {execution.gpus} has no effect: Slurm chooses the GPUs.")
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
    return max(1, min(fitting, MAX_JOBS_PER_GPU, usable_cores()))
