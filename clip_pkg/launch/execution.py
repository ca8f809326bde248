"""Puts the scheduler together and runs it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from clip_pkg.base.cores import usable_cores
from clip_pkg.base.errors import DamagedFile, shown, some
from clip_pkg.base.paths import RunPaths
from clip_pkg.launch.request import RunFolders
from clip_pkg.launch.run_view import RunView
from clip_pkg.launch.terminal import Terminal
from clip_pkg.scheduling.job import JobState, Slot, SlotPool
from clip_pkg.scheduling.ledger import Ledger, RunRecord, read_ledger
from clip_pkg.scheduling.loop import Loop, Outcome
from clip_pkg.scheduling.queue import Estimates, TaskQueue, pins
from clip_pkg.scheduling.resources import Execution, Resources
from clip_pkg.scheduling.retries import FailurePolicy
from clip_pkg.study.progress import read_progress
from clip_pkg.study.run_folder import SharedFiles
from clip_pkg.study.tasks import (
    FoldResult,
    FoldTask,
    PretrainTask,
    Task,
    damage,
    finished,
    nouns,
    read_record,
    read_task,
    unfinished,
)

MAX_ROUNDS = 3  # in which results that were lost meanwhile are trained again

# So that `tail -f NAME_gpu*.log` finds the logs of a machine without an NVIDIA GPU.
LOG_PLACES = {"cpu": "gpu-none", "mps": "gpu-mps"}


def execute(
    folders: RunFolders,
    execution: Execution,
    tasks: Sequence[Task],
    resources: Resources,
    terminal: Terminal,
    *,
    files: SharedFiles,
    on_ended: Callable[[str], None],
) -> Outcome:
    """Run every task that is not finished; `on_ended` is called with the name of each that ends.

    files: restored before a task starts. Tasks whose results are lost meanwhile run again.
    """
    for _ in range(MAX_ROUNDS):
        done = [task for task in tasks if finished(task) is not None]
        outcome = _round(
            folders, execution, tasks, resources, terminal, files=files, on_ended=on_ended
        )
        _restore(files)
        lost = [task for task in (*done, *outcome[JobState.DONE]) if finished(task) is None]
        if not lost or resources.stop:
            break
        names = some([task.display_name for task in lost])
        terminal.note(f"the results of {names} were lost during the run and are trained again")
    return outcome


def _restore(files: SharedFiles, *folders: Path) -> None:
    """Restore what can be; a full disk must not end the run, and a worker says what it lacks."""
    with contextlib.suppress(OSError):
        files.restore(*folders)


def _round(
    folders: RunFolders,
    execution: Execution,
    tasks: Sequence[Task],
    resources: Resources,
    terminal: Terminal,
    *,
    files: SharedFiles,
    on_ended: Callable[[str], None],
) -> Outcome:
    run = folders.run
    waiting = unfinished(tasks)
    for task in waiting:
        if (found := damage(task)) is not None:
            reason = f"{shown(found.path)} {found.reason}"
            terminal.note(f"{reason}: {task.display_name} is trained again")
    if len(waiting) < len(tasks):
        done = len(tasks) - len(waiting)
        terminal.line(f"{done} of {len(tasks)} {nouns(tasks)} are already finished.")
    estimates = estimates_of(run)
    devices = resources.places_for(len(waiting), execution.slurm.max_jobs)
    most = resources.most_jobs(tasks)
    jobs = min(resources.jobs_per_device, most)
    if jobs > 1 and devices[0].id == "cpu":
        cores = usable_cores()
        threads = max(1, cores // jobs)
        terminal.line(f"{jobs} folds share {cores} CPU core(s): {threads} thread(s) each.")
    ledger, names = Ledger(run.ledger), {one.name for one in tasks if isinstance(one, FoldTask)}
    ledger.append(
        "launched",
        pid=os.getpid(),
        host=platform.node(),
        devices=[device.id for device in devices],
        **({"configs": sorted(names)} if names else {}),  # a refit belongs to no list
        tasks=len(tasks),
        waiting=len(waiting),
    )
    _note_unrecorded(tasks, ledger, read_ledger(run.ledger))
    with (
        resources.stop.watching(),
        RunView(terminal, waiting, len(tasks) - len(waiting), on_ended, estimates) as view,
    ):
        outcome = Loop(
            pool=SlotPool(devices, jobs),
            queue=TaskQueue(waiting, estimates, pins(tasks, devices)),
            executor=resources.executor,
            ledger=ledger,
            observer=view,
            last_progress=_last_progress,
            log_file=_log_names(folders.log_dir.resolve()),
            stop_requested=lambda: bool(resources.stop),
            gate=resources.gate,
            policy=FailurePolicy(execution.retries),
            restore=lambda task: _restore(files, *_folders_of_inputs(task)),
            fail_fast=execution.fail_fast,
            stall_timeout=execution.stall_timeout,
            slots_for_task=resources.slots_for,
            expected_seconds=_expected_seconds,
            jobs_that_fit=None
            if (fit := resources.jobs_that_fit) is None
            else lambda device, task: min(most, fit(device, task)),
        ).run()
    ledger.append("finished", done=len(outcome[JobState.DONE]))
    return outcome


def _folders_of_inputs(task: Task) -> set[Path]:
    inputs = [task.manifest_file, task.config_paths.config]
    if isinstance(task, PretrainTask) and task.folds_info_file is not None:
        inputs.append(task.folds_info_file)
    return {file.parent for file in inputs}


def _note_unrecorded(tasks: Sequence[Task], ledger: Ledger, record: RunRecord) -> None:
    """Note the folds that were finished just when their launcher was killed."""
    for task in tasks:
        known = record.tasks.get((task.name, task.fold))
        result = finished(task)
        if result is not None and (known is None or known.state != "done"):
            ledger.append(
                "done", config=task.name, fold=task.fold, seconds=round(result.seconds, 3)
            )


def _log_names(log_dir: Path) -> Callable[[Task, Slot], Path]:
    """Name logs per config and device; a device that several folds share has one log per slot.

    Which device of a cluster a fold gets is not known before: these logs are named by fold.
    """
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")

    def name(task: Task, slot: Slot) -> Path:
        # People watch NAME_gpu*_*.log, without a GPU as well.
        place = LOG_PLACES.get(slot.device.id, slot.device.log_tag)
        place += f".{slot.number}" if slot.number else ""
        if slot.device.cluster:
            place = f"{slot.device.log_tag}_fold{task.fold}"
        return log_dir / f"{task.name}_{place}_{stamp}.log"

    return name


def _last_progress(task: Task) -> float | None:
    progress = read_progress(task.paths.progress)
    return None if progress is None else progress.updated


def _expected_seconds(task: Task, seconds: float) -> float:
    """From the result, because an attempt that resumed is shorter, and a first one imports."""
    result = finished(task)
    return seconds if result is None else result.expected_seconds


def estimates_of(run: RunPaths) -> Estimates:
    """Estimates from every task that ever finished in an output folder."""
    estimates = Estimates()
    places = ("*/fold_*/result.json", f"{run.pretraining.name}/*/result.json")
    for path in sorted(path for place in places for path in run.output_dir.glob(place)):
        try:
            task = read_task(path.with_name("task.json"))
            result = read_record(FoldResult, path)
        except DamagedFile:
            continue
        if task is not None and result is not None:
            estimates.learn(task, result.expected_seconds)
    return estimates
