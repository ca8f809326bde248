"""Puts the scheduler together as the command line asks, and runs it."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType

from clip_pkg.cli.arguments import AUTO
from clip_pkg.cli.plan import learned
from clip_pkg.cli.ray_flags import check_ray_flags
from clip_pkg.cli.run_view import RunView
from clip_pkg.cli.terminal import Terminal
from clip_pkg.errors import UserError
from clip_pkg.evaluation.curves import write_mean_curves
from clip_pkg.evaluation.summary import summarize
from clip_pkg.paths import RunPaths
from clip_pkg.planning.progress import read_progress
from clip_pkg.planning.tasks import FoldResult, FoldTask, finished, read_record
from clip_pkg.scheduling.devices import Device, find_devices, parse_ids, usable_cores
from clip_pkg.scheduling.health import DeviceGate, GpuGate, OpenGate, gpu_memory
from clip_pkg.scheduling.inline import InlineExecutor
from clip_pkg.scheduling.job import Assignment, Executor, JobState
from clip_pkg.scheduling.ledger import Ledger, RunRecord, read_ledger
from clip_pkg.scheduling.loop import Loop, Outcome
from clip_pkg.scheduling.order import TaskQueue
from clip_pkg.scheduling.policy import FailurePolicy
from clip_pkg.scheduling.processes import ProcessExecutor
from clip_pkg.scheduling.slots import Slot, SlotPool

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
        """Listen while the folds run."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass(frozen=True)
class Resources:
    """Where a run takes place: devices, who carries tasks out there, and who checks the devices.

    most_gpus: that one fold can have, if that is less than there are devices.
    """

    devices: Sequence[Device]
    jobs_per_device: int
    jobs_that_fit: Callable[[Device, FoldTask], int] | None
    executor: Executor
    gate: DeviceGate
    stop: StopOnSignal
    notices: Sequence[str]
    most_gpus: int | None = None

    @property
    def first_slot(self) -> Slot:
        """Where the first fold will run."""
        return Slot(self.devices[0])


def find_resources(parsed: argparse.Namespace) -> Resources:
    """Choose devices and executor. Raises UserError for those that are not there."""
    check_ray_flags(parsed)
    if parsed.executor == "ray":
        return _ray_resources(parsed)
    stop = StopOnSignal()
    wanted = None if parsed.gpus is None else parse_ids(parsed.gpus)
    devices, notices = find_devices(wanted)
    jobs = 1 if parsed.jobs_per_gpu == AUTO else parsed.jobs_per_gpu
    has_gpu = devices[0].is_gpu
    if parsed.executor == "inline":
        devices, jobs = devices[:1], 1
    if not has_gpu and jobs > 1:
        cores = usable_cores()
        notices.append(
            f"{jobs} folds share {cores} CPU core(s): {max(1, cores // jobs)} thread(s) each."
        )
    return Resources(
        devices=devices,
        jobs_per_device=jobs,
        jobs_that_fit=jobs_that_fit if parsed.jobs_per_gpu == AUTO and has_gpu else None,
        executor=InlineExecutor(partial(_inline, stop=stop))
        if parsed.executor == "inline"
        else ProcessExecutor(),
        gate=GpuGate(patience=parsed.wait_for_gpu) if has_gpu else OpenGate(),
        stop=stop,
        notices=notices,
    )


def _ray_resources(parsed: argparse.Namespace) -> Resources:
    from clip_pkg.scheduling.ray_cluster import RayExecutor, places  # noqa: PLC0415
    from clip_pkg.scheduling.ray_connection import connect, lay_out  # noqa: PLC0415

    connection = connect(parsed.ray_address or AUTO)
    try:
        nodes = connection.nodes()
        layout = lay_out(nodes, parsed.jobs_per_gpu)
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


def check_gpus_per_task(tasks: Sequence[FoldTask], resources: Resources) -> None:
    """Raise UserError when a fold wants more GPUs than there are."""
    most = resources.most_gpus
    for task in tasks:
        if most is not None and task.gpus > most:
            raise UserError(
                f"{task.name}: gpus_per_task is {task.gpus}, but no node of the cluster has more "
                f"than {most}; lower it"
            )
        if task.gpus > len(resources.devices):
            raise UserError(
                f"{task.name}: gpus_per_task is {task.gpus}, but this run has "
                f"{len(resources.devices)} device(s); list more with --gpus or lower it"
            )


def execute(
    parsed: argparse.Namespace,
    run: RunPaths,
    tasks: Sequence[FoldTask],
    resources: Resources,
    terminal: Terminal,
) -> Outcome:
    """Run every task that is not done yet."""
    waiting = [task for task in tasks if finished(task) is None]
    if len(waiting) < len(tasks):
        terminal.line(f"{len(tasks) - len(waiting)} of {len(tasks)} folds are done already.")
    estimates = learned(run)
    ledger = Ledger(run.ledger)
    ledger.append(
        "launched",
        pid=os.getpid(),
        host=os.uname().nodename,
        devices=[device.id for device in resources.devices],
        tasks=len(tasks),
        waiting=len(waiting),
    )
    _note_unrecorded(tasks, ledger, read_ledger(run.ledger))
    sum_up = partial(_sum_up, run, terminal)
    with (
        resources.stop.watching(),
        RunView(terminal, waiting, len(tasks) - len(waiting), sum_up, estimates) as view,
    ):
        outcome = Loop(
            pool=SlotPool(resources.devices, resources.jobs_per_device),
            queue=TaskQueue(waiting, estimates, [device.id for device in resources.devices]),
            executor=resources.executor,
            ledger=ledger,
            observer=view,
            log_file=_log_names(parsed.log_dir.resolve()),
            signs_of_life=_signs_of_life,
            stop_requested=lambda: bool(resources.stop),
            gate=resources.gate,
            policy=FailurePolicy(parsed.retries),
            fail_fast=parsed.fail_fast,
            stall_timeout=parsed.stall_timeout,
            jobs_that_fit=resources.jobs_that_fit,
        ).run()
    ledger.append("finished", done=len(outcome[JobState.DONE]))
    return outcome


def _note_unrecorded(tasks: Sequence[FoldTask], ledger: Ledger, record: RunRecord) -> None:
    """Note the folds that were finished just when their launcher was killed."""
    for task in tasks:
        known = record.tasks.get((task.name, task.fold))
        result = finished(task)
        if result is not None and (known is None or known.state != "done"):
            ledger.append(
                "done", config=task.name, fold=task.fold, seconds=round(result.seconds, 3)
            )


def _log_names(log_dir: Path) -> Callable[[FoldTask, Slot], Path]:
    """Name logs per config and device; a device that several folds share has one log per slot.

    Which device of a cluster a fold gets is not known before: these logs are named by fold.
    """
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")

    def name(task: FoldTask, slot: Slot) -> Path:
        place = slot.device.log_tag + (f".{slot.number}" if slot.number else "")
        if slot.device.cluster:
            place = f"{slot.device.log_tag}_fold{task.fold}"
        return log_dir / f"{task.name}_{place}_{stamp}.log"

    return name


def _signs_of_life(task: FoldTask) -> float | None:
    progress = read_progress(task.paths.progress)
    return None if progress is None else progress.updated


def _sum_up(run: RunPaths, terminal: Terminal, name: str) -> None:
    """Rewrite a config's summary while others train; a full disk must not end the run."""
    try:
        summarize(run.config(name))
        write_mean_curves(run.config(name))
    except OSError as error:
        terminal.line(f"The summary of {name} could not be written yet: {error}", "yellow")


def jobs_that_fit(device: Device, task: FoldTask) -> int:
    """How many folds like this finished one a GPU holds, by the memory that it took."""
    result = read_record(FoldResult, task.paths.result)
    if result is None or result.peak_memory_bytes is None:
        return 1
    room = USABLE_SHARE * gpu_memory(device).total
    fitting = int(room // (result.peak_memory_bytes + CONTEXT_BYTES))
    return max(1, min(fitting, MOST_JOBS_PER_GPU, usable_cores()))


def _inline(assignment: Assignment, *, stop: StopOnSignal) -> JobState:
    from clip_pkg.worker import Place, carry_out  # noqa: PLC0415

    with assignment.log_file.open("a", encoding="utf-8", buffering=1) as stream:
        report = carry_out(assignment.task, Place(**assignment.place), stream, stop)
    return JobState(report.state)
