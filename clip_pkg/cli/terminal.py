"""What the user sees of a run: bars and a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from clip_pkg.planning.tasks import FoldFailure, FoldResult, FoldTask, finished, read_record
from clip_pkg.scheduling.job import Assignment, JobState

COLUMNS = (
    ("acc", "Acc %"),
    ("balanced_acc", "Bal. acc %"),
    ("f1", "Macro F1"),
    ("mAP", "mAP %"),
    ("auroc", "AUROC"),
)
SECONDS_BETWEEN_LOOKS = 0.5
PLAIN_WIDTH = 120


class Terminal:
    """Output of the launcher; `rich` draws on a terminal, plain lines go to files and pipes."""

    def __init__(self, console: Console | None = None) -> None:
        # Files and pipes have no width; a table must not be squeezed into a guess of one.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
        self.console = console or Console(highlight=False, width=width)

    @property
    def is_live(self) -> bool:
        """Whether somebody looks at a terminal that can redraw."""
        return self.console.is_terminal

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line as it is; brackets in names are no markup."""
        self.console.print(text, style=style or None, markup=False, soft_wrap=True)

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show a bar for `done` of `total`; in plain output a line at the end."""
        started = time.monotonic()
        latest = (0, 0)

        def remember(done: int, total: int) -> None:
            nonlocal latest
            latest = (done, total)

        if self.is_live:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(what, total=None)

                def show(done: int, total: int) -> None:
                    remember(done, total)
                    bar.update(task, completed=done, total=total)

                yield show
        else:
            yield remember
        if latest[1]:
            self.line(f"{what}: {latest[0]} of {latest[1]} in {time.monotonic() - started:.1f} s")

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show that something is going on."""
        if self.is_live:
            with self.console.status(what):
                yield
        else:
            yield


@dataclass
class RunView:
    """Observer of the scheduling loop: a live table of what runs, and a line per event."""

    terminal: Terminal
    tasks: Sequence[FoldTask]
    already_done: int
    on_config_done: Callable[[str], None]
    _started: float = field(default_factory=time.monotonic)
    _looked: float = 0.0
    _ended: int = 0
    _live: Live | None = None

    def __enter__(self) -> RunView:
        if self.terminal.is_live:
            self._live = Live(self._table([]), console=self.terminal.console, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, assignment: Assignment) -> None:
        """A fold has begun."""
        task = assignment.task
        self.terminal.line(
            f"{task.name}: fold {task.fold} of {task.n_folds} started on "
            f"{assignment.device.log_tag}, log {assignment.log_file}"
        )

    def ended(self, assignment: Assignment, state: JobState) -> None:
        """A fold has ended: say how, and let the config be summarised."""
        self._ended += 1
        task = assignment.task
        head = f"{task.name}: fold {task.fold} of {task.n_folds}"
        result = finished(task)
        if state is JobState.DONE and result is not None:
            self.terminal.line(f"{head} done in {result.seconds:.0f} s, {_best(result)}", "green")
        elif state is JobState.INTERRUPTED:
            self.terminal.line(
                f"{head} stopped; the same command goes on from its checkpoint", "yellow"
            )
        else:
            failure = read_record(FoldFailure, task.paths.failure)
            kind, reason = (
                (failure.kind, failure.reason) if failure else ("error", "no reason left")
            )
            self.terminal.line(f"{head} FAILED ({kind}): {reason}", "bold red")
            self.terminal.line(f"  see {assignment.log_file}")
        self.on_config_done(task.name)

    def tick(self, running: Sequence[Assignment]) -> None:
        """Redraw now and then."""
        now = time.monotonic()
        if self._live is not None and now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = now
            self._live.update(self._table(running))

    def _table(self, running: Sequence[Assignment]) -> Table:
        done = self.already_done + self._ended
        total = self.already_done + len(self.tasks)
        table = Table(title=f"{done} of {total} folds done{self._remaining()}", expand=True)
        for name in ("Config", "Fold", "Device", "Epoch", "Step", "Monitored", "Images/s"):
            table.add_column(name, overflow="fold" if name == "Config" else "ellipsis")
        for assignment in running:
            task = assignment.task
            state = _progress(task.paths.progress)
            monitored = state.get("monitored")
            table.add_row(
                task.name,
                f"{task.fold}/{task.n_folds}",
                assignment.device.log_tag,
                f"{state.get('epoch', 0)}/{task.config['epochs']}",
                f"{state.get('phase', 'starting')} {state.get('step', 0)}/{state.get('steps', 0)}",
                "" if monitored is None else f"{monitored:.4f}",
                f"{state.get('images_per_second', 0):.0f}",
            )
        return table

    def _remaining(self) -> str:
        if self._ended == 0:
            return ""
        left = len(self.tasks) - self._ended
        seconds = (time.monotonic() - self._started) / self._ended * left
        return (
            f", about {seconds / 60:.0f} min left"
            if seconds >= 90
            else f", about {seconds:.0f} s left"
        )


def _best(result: FoldResult) -> str:
    accuracy, mean_ap = result.best["val_acc"], result.best["val_mAP"]
    text = f"best epoch {result.best_epoch}: val acc {accuracy:.2f}%"
    return text if mean_ap is None else f"{text}, mAP {mean_ap:.2f}%"


def _progress(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return state


def results_table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """One row per config: mean ± SD over folds at the best epoch, and accuracy at the last."""
    table = Table(
        title="Validation, mean ± SD over folds at the best epoch; Last: at the last epoch"
    )
    table.add_column("Config", overflow="fold", min_width=7)
    table.add_column("Folds", justify="right")
    for _, title in COLUMNS:
        table.add_column(title, justify="right")
    table.add_column("Last acc %", justify="right")
    for summary in summaries:
        best, last = summary["average_results"], summary["last_epoch"]["average_results"]
        table.add_row(
            summary["config"]["name"],
            f"{best['n']}/{summary['n_folds']}",
            *(mean_and_sd(best, f"val_{name}") for name, _ in COLUMNS),
            mean_and_sd(last, "val_acc"),
        )
    return table


def mean_and_sd(averages: Mapping[str, Any], name: str) -> str:
    """`92.13 ± 1.20`; fractions with one more digit; a dash where it is undefined."""
    mean, deviation = averages.get(f"avg_{name}"), averages.get(f"std_{name}")
    if mean is None:
        return "–"
    digits = 2 if name.endswith(("acc", "mAP")) else 3
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")
