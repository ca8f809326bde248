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
from typing import TYPE_CHECKING

from clip_pkg.cli.arguments import AUTO
from clip_pkg.cli.plan import learned
from clip_pkg.cli.run_view import RunView
from clip_pkg.cli.slurm_flags import check_slurm, slurm_options
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
from clip_pkg.scheduling.slurm_options import SlurmOptions

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

    cluster: the executor too, where that is a cluster; its devices are places in a queue, of which
    there are as many as anybody wants.
    """

    devices: Sequence[Device]
    jobs_per_device: int
    grows: bool
    executor: Executor
    gate: DeviceGate
    stop: StopOnSignal
    notices: Sequence[str]
    cluster: SlurmExecutor | None = None

    @property
    def first_slot(self) -> Slot:
        """Where the first fold will run."""
        return Slot(self.devices[0])


def find_resources(parsed: argparse.Namespace, terminal: Terminal) -> Resources:
    """Choose devices and executor. Raises UserError for those that are not there."""
    options = slurm_options(parsed)
    if options is not None:
        return _on_slurm(parsed, options, terminal)
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
        grows=parsed.jobs_per_gpu == AUTO and has_gpu,
        executor=InlineExecutor(partial(_inline, stop=stop))
        if parsed.executor == "inline"
        else ProcessExecutor(),
        gate=GpuGate(patience=parsed.wait_for_gpu) if has_gpu else OpenGate(),
        stop=stop,
        notices=notices,
    )


def _on_slurm(parsed: argparse.Namespace, options: SlurmOptions, terminal: Terminal) -> Resources:
    check_slurm()
    from clip_pkg.scheduling.slurm import SlurmExecutor  # noqa: PLC0415 - needs submitit
    from clip_pkg.worker import run_task  # noqa: PLC0415

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
        devices=cluster_places(options.max_jobs or 1),
        jobs_per_device=1,
        grows=False,
        executor=executor,
        gate=OpenGate(),
        stop=StopOnSignal(),
        notices=notices,
        cluster=executor,
    )


def cluster_places(count: int) -> tuple[Device, ...]:
    """So many places in the queue of a Slurm cluster."""
    return tuple(Device(f"slurm-{n}", "", "Slurm", cluster="slurm") for n in range(1, count + 1))


def check_gpus_per_task(tasks: Sequence[FoldTask], resources: Resources) -> None:
    """Raise UserError when a fold wants more GPUs than there are."""
    for task in tasks if resources.cluster is None else ():
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
    devices = resources.devices
    if resources.cluster is not None:
        devices = cluster_places(min(parsed.max_jobs or len(waiting), len(waiting)))
    ledger = Ledger(run.ledger)
    ledger.append(
        "launched",
        pid=os.getpid(),
        host=os.uname().nodename,
        devices=[device.id for device in devices],
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
            pool=SlotPool(devices, resources.jobs_per_device),
            queue=TaskQueue(waiting, estimates, [device.id for device in devices]),
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
            slots_for_task=lambda task: task.gpus if resources.cluster is None else 1,
            jobs_that_fit=jobs_that_fit if resources.grows else None,
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

    On a cluster there is one per fold: those of a config run at the same time in many places.
    """
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")

    def name(task: FoldTask, slot: Slot) -> Path:
        place = slot.device.log_tag + (f".{slot.number}" if slot.number else "")
        if slot.device.cluster:
            place += f"_fold{task.fold}"
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
