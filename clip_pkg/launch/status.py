"""`status`: how a run is doing, from its files alone, so from any shell that sees them."""

from __future__ import annotations

import itertools
import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clip_pkg.base.errors import DamagedFile, RunFolderError, shown, some
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.base.paths import FoldPaths, RunPaths
from clip_pkg.base.wrapping import NameTable, Parts
from clip_pkg.launch.run_view import progress_cells, progress_columns
from clip_pkg.launch.terminal import Terminal, duration, shortened
from clip_pkg.scheduling.devices import Device, find_devices, gpu_utilization
from clip_pkg.scheduling.ledger import RunRecord, TaskRecord, read_ledger
from clip_pkg.scheduling.loop import SECONDS_BETWEEN_HEARTBEATS
from clip_pkg.scheduling.queue import Estimates, seconds_left
from clip_pkg.study.fold_files import AGAIN
from clip_pkg.study.progress import Progress, read_progress
from clip_pkg.study.run_folder import read_holder
from clip_pkg.study.tasks import (
    DAMAGED,
    FoldFailure,
    FoldResult,
    FoldTask,
    Task,
    damage,
    failure_of,
    finished,
    left_failure,
    read_task,
)

SECONDS_BETWEEN_READS = 2.0
MAX_FOLD_COLUMNS = 10
FAILURES_SHOWN = 5
LINES_OF_A_LOG = 3


@dataclass(frozen=True)
class FoldStatus:
    """State of one task."""

    task: Task
    record: TaskRecord
    progress: Progress | None
    result: FoldResult | None
    failure: FoldFailure | None

    @property
    def is_running(self) -> bool:
        """Whether the ledger says that it is being trained."""
        return self.result is None and self.record.state == "running"

    @property
    def has_failed(self) -> bool:
        """Whether its last attempt failed and no other is under way."""
        return self.result is None and self.failure is not None and not self.is_running


@dataclass(frozen=True)
class RunStatus:
    """State of a run. launcher: the process that runs it; empty if none does.

    folds: of the configs in the list that was launched last; earlier: of all others. damaged: task
    files that cannot be read, so that their folds are not listed.
    """

    run: RunPaths
    record: RunRecord
    folds: tuple[FoldStatus, ...]
    pretrainings: tuple[FoldStatus, ...]
    launcher: str
    damaged: tuple[DamagedFile, ...] = ()
    earlier: tuple[FoldStatus, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether no file of it is damaged."""
        failures = (one.failure for one in self.all)
        return not self.damaged and all(one is None or one.kind != DAMAGED for one in failures)

    @property
    def all(self) -> tuple[FoldStatus, ...]:
        """All tasks, in the order in which they can start."""
        return (*self.pretrainings, *self.folds)

    @property
    def is_over(self) -> bool:
        """Whether the state is final."""
        return not self.launcher


def read_status(output_dir: Path) -> RunStatus:
    """Read the state of a run. Raises RunFolderError if the folder holds none.

    Until its launcher has planned it, a run has no folds.
    """
    run = RunPaths(output_dir.resolve())
    record = read_ledger(run.ledger)
    launcher = _launcher(run, record)
    folds, started, damaged = [], set(), []
    found = sorted(run.output_dir.glob("*/fold_*"), key=_fold_number)
    for fold in map(FoldPaths, found):
        try:
            task = read_task(fold.task)
            if task is None and fold.result.exists():
                raise DamagedFile(fold.task, "is missing", AGAIN)
        except DamagedFile as error:
            damaged.append(error)
            continue
        if isinstance(task, FoldTask):
            started.add(task.starts_from and task.starts_from.name)
            here = replace(task, run_dir=fold.root.parent)  # which may have been moved or copied
            folds.append(_fold(here, record, is_alive=bool(launcher)))
    if not folds and not launcher:
        nothing = f"{output_dir} holds no run: there is no fold_*/task.json below it"
        raise RunFolderError("\n  ".join(map(str, damaged)) or nothing)
    pretrainings = []
    for path in sorted(run.pretraining.glob("*/task.json")):
        if path.parent.name in started:
            try:
                task = read_task(path)
            except DamagedFile as error:
                damaged.append(error)
                continue
            if task is not None:
                here_too = replace(task, run_dir=path.parent)
                pretrainings.append(_fold(here_too, record, is_alive=bool(launcher)))

    def is_listed(fold: FoldStatus) -> bool:
        return record.configs is None or fold.task.name in record.configs

    return RunStatus(
        run=run,
        record=record,
        folds=tuple(filter(is_listed, folds)),
        pretrainings=tuple(pretrainings),
        launcher=launcher,
        damaged=tuple(damaged),
        earlier=tuple(itertools.filterfalse(is_listed, folds)),
    )


def _fold_number(path: Path) -> tuple[str, int]:
    number = path.name.removeprefix("fold_")
    return (str(path.parent), int(number) if number.isdecimal() else 0)


def _fold(task: Task, record: RunRecord, *, is_alive: bool) -> FoldStatus:
    known = record.tasks.get((task.name, task.fold), TaskRecord(task.name, task.fold))
    if not is_alive and known.state in ("queued", "running"):
        known.state = "interrupted"  # its launcher is gone
    failure = left_failure(task)
    if (error := damage(task)) is not None:
        failure = failure_of(task, DAMAGED, str(error), "")
    progress = read_progress(task.paths.progress)
    return FoldStatus(task, known, progress, finished(task), failure)


def _launcher(run: RunPaths, record: RunRecord) -> str:
    """The process that runs it, or an empty string; the lock is not taken."""
    holder = read_holder(run)
    known = re.fullmatch(r"process (\d{1,9}) on (\S+)", holder)
    if known is None:
        return ""
    if known[2] == platform.node():
        try:
            os.kill(int(known[1]), 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass  # it is alive and belongs to another user
        return holder
    try:
        # Its first event in the ledger follows only after all preparations.
        latest = max(record.last, run.holder.stat().st_mtime)
    except FileNotFoundError:
        return ""  # it has just ended
    return holder if time.time() - latest <= 3 * SECONDS_BETWEEN_HEARTBEATS else ""


def show_status(output_dir: Path, *, watch: bool) -> int:
    """Print the state of a run; with `watch`, from its start and repeatedly until it is over."""
    terminal = Terminal()
    if watch and not _has_begun(output_dir):
        terminal.line(f"Waiting for a run in {shown(output_dir)}; Ctrl-C ends this.")
        while not _has_begun(output_dir):
            time.sleep(SECONDS_BETWEEN_READS)
    status = read_status(output_dir)
    if watch and terminal.is_live:
        console, is_narrow = terminal.console, terminal.is_narrow
        first = render(status, is_narrow=is_narrow)
        with Live(first, console=console, auto_refresh=False) as live:
            while not status.is_over:
                time.sleep(SECONDS_BETWEEN_READS)
                status = read_status(output_dir)
                live.update(render(status, is_narrow=is_narrow), refresh=True)
    else:
        terminal.show(render(status, is_narrow=terminal.is_narrow))
        while watch and not status.is_over:
            time.sleep(SECONDS_BETWEEN_READS)
            status = read_status(output_dir)
            terminal.line(_headline(status))
    return ExitCode.DONE if status.is_whole else ExitCode.FAILED


def _has_begun(output_dir: Path) -> bool:
    try:
        read_status(output_dir)
    except RunFolderError:
        return False
    return True


def render(status: RunStatus, *, is_narrow: bool) -> RenderableType:
    """The whole output of `status`. is_narrow: without details."""
    if not status.folds:
        return Text(_headline(status))
    parts: list[RenderableType] = [Text(_headline(status)), _matrix(status.folds)]
    running = [one for one in status.all if one.is_running]
    if running:
        parts.append(_running_table(running, is_narrow=is_narrow))
    parts += [
        Text(f"gpu{device} is set aside: {reason}", "bold red")
        for device, reason in status.record.set_aside.items()
    ]
    parts += [Text(f"NOT SHOWN: {error}", "bold red") for error in status.damaged]
    failed = [one for one in status.all if one.has_failed]
    for fold in failed[:FAILURES_SHOWN]:
        parts += _failure_lines(fold)
    if len(failed) > FAILURES_SHOWN:
        parts.append(Text(f"… and {len(failed) - FAILURES_SHOWN} more failed folds"))
    if status.earlier:
        names = dict.fromkeys(fold.task.name for fold in status.earlier)
        done = sum(1 for fold in status.earlier if fold.result is not None)
        parts.append(
            Text(
                f"Not in the list that was launched last: {some(names)} ({done} of "
                f"{len(status.earlier)} folds done)"
            )
        )
    return Group(*parts)


def _headline(status: RunStatus) -> str:
    if not status.folds:
        return f"{status.launcher} prepares the run; no fold is planned yet"
    done = sum(1 for fold in status.folds if fold.result is not None)
    failed = sum(1 for one in status.all if one.has_failed)
    words = [f"{done} of {len(status.folds)} folds done"]
    if status.pretrainings:
        ready = sum(1 for one in status.pretrainings if one.result is not None)
        words.insert(0, f"{ready} of {len(status.pretrainings)} pre-trainings done")
    words += [f"{failed} failed"] if failed else []
    estimates = Estimates()
    for fold in status.all:
        if fold.result is not None:
            estimates.learn(fold.task, fold.result.expected_seconds)
    left = [one.task for one in status.all if one.result is None and not one.has_failed]
    running = [one for one in status.all if one.is_running]
    if status.launcher and left and estimates.knows_anything:
        shares = {
            one.task.display_name: one.progress.share if one.is_running else one.progress.kept_share
            for one in status.all
            if one.progress and (one.is_running or one.task.checkpoint_to_resume is not None)
        }
        words.append(f"about {duration(seconds_left(left, shares, estimates, len(running)))} left")
    if status.launcher:
        words.append(status.launcher)
    elif done < len(status.folds):
        words.append("no launcher is running; run the same command again to resume")
    return ", ".join(words)


def _matrix(folds: Sequence[FoldStatus]) -> Table:
    """Configs × folds: accuracy if finished, progress if running, else the state."""
    by_config: dict[str, list[FoldStatus]] = {}
    for fold in folds:
        by_config.setdefault(fold.task.name, []).append(fold)
    columns = max(fold.task.n_folds for fold in folds if isinstance(fold.task, FoldTask))
    sizes = {
        fold.task.n_splits if fold.task.n_splits < fold.task.n_folds else 0
        for fold in folds
        if isinstance(fold.task, FoldTask)
    }
    repeats = f"; every {max(sizes)} folds are a repeat" if len(sizes) == 1 and max(sizes) else ""
    title = f"Validation accuracy % at the best epoch{repeats}"
    table = NameTable(title=title, title_justify="left")
    prefix, names = shortened(list(by_config))
    table.add_column("Config", overflow="fold")
    if columns > MAX_FOLD_COLUMNS:
        for name in ("done", "running", "failed", "waiting"):
            table.add_column(name, justify="right")
    else:
        for number in range(1, columns + 1):
            table.add_column(str(number), justify="right", no_wrap=True)
    table.caption = f"… stands for {prefix}" if prefix else None
    for name, mine in zip(names, by_config.values(), strict=True):
        cells = _counts(mine) if columns > MAX_FOLD_COLUMNS else [_cell(fold) for fold in mine]
        table.add_row(Parts(name), *cells)
    return table


def _cell(fold: FoldStatus) -> Text:
    if fold.result is not None:
        accuracy = fold.result.best.get("val_acc")
        return Text("done" if accuracy is None else f"{accuracy:.1f}", "green")
    if fold.is_running:
        return Text(f"▶{100 * (fold.progress.share if fold.progress else 0):.0f}%", "cyan")
    if fold.failure is not None:
        return Text("diverged" if fold.failure.kind == "diverged" else "failed", "bold red")
    return Text("paused" if fold.record.state == "interrupted" else "·", "yellow")


def _counts(folds: Sequence[FoldStatus]) -> list[Text]:
    done = sum(1 for fold in folds if fold.result is not None)
    running = sum(1 for fold in folds if fold.is_running)
    failed = sum(1 for fold in folds if fold.has_failed)
    rest = len(folds) - done - running - failed
    return [Text(str(count)) for count in (done, running, failed, rest)]


def _running_table(folds: Sequence[FoldStatus], *, is_narrow: bool) -> Table:
    table = NameTable(title="Running", title_justify="left")
    table.add_column("Config", overflow="fold")
    more = () if is_narrow else ("GPU %", "Attempt", "Last step")
    for name in (*progress_columns([fold.task for fold in folds]), *more):
        table.add_column(name, no_wrap=True)
    busy = {} if is_narrow else _utilization(folds)
    for fold in folds:
        state = fold.progress
        cells = [
            fold.task.short_title,
            fold.record.device,
            *progress_cells(state, fold.task),
        ]
        if not is_narrow:
            age = "" if state is None else f"{duration(max(0.0, time.time() - state.updated))} ago"
            cells += [busy.get(fold.record.device, ""), str(fold.record.attempts), age]
        table.add_row(Parts(fold.task.name), *(Text(cell) for cell in cells))
    return table


def _utilization(folds: Sequence[FoldStatus]) -> dict[str, str]:
    """Device id → percent busy, for GPUs of this machine."""
    here = [fold for fold in folds if fold.progress and fold.progress.host == platform.node()]
    wanted = {fold.record.device for fold in here}
    devices: Sequence[Device] = find_devices(None)[0]
    found = {
        device.id: gpu_utilization(device)
        for device in devices
        if device.is_gpu and device.id in wanted
    }
    return {name: f"{percent}" for name, percent in found.items() if percent is not None}


def _failure_lines(fold: FoldStatus) -> list[Text]:
    failure = fold.failure
    assert failure is not None, "the fold has failed"
    lines = [
        Text(f"{fold.task.display_name} FAILED ({failure.kind}): {failure.reason}", "bold red")
    ]
    lines += [Text(f"  {line}") for line in failure.detail.splitlines()[-LINES_OF_A_LOG:]]
    return [*lines, Text(f"  see {failure.log_file}")] if failure.log_file else lines
