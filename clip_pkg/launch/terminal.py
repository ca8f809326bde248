"""Output of the program: bars on a terminal, plain lines elsewhere; the table of results."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clip_pkg.metrics.table import HEADLINE_METRICS
from clip_pkg.results.comparison_records import spread_of
from clip_pkg.results.comparison_tables import shown_spread, title
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, JobState
from clip_pkg.scheduling.loop import Observer
from clip_pkg.scheduling.queue import Estimates, seconds_left
from clip_pkg.study.progress import FoldProfile, Progress, read_progress
from clip_pkg.study.tasks import FoldFailure, FoldResult, Task, finished, nouns

PLAIN_WIDTH = 120
SHORTEST_PREFIX = 12  # of config names, to be worth leaving out


class Terminal:
    """Output of the launcher; `rich` draws on a terminal, plain lines go to files and pipes."""

    def __init__(self, console: Console | None = None) -> None:
        # Files and pipes have no width; a table must not be squeezed into a guess of one.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
        self.console = console or Console(highlight=False, width=width)

    @classmethod
    def silent(cls) -> Terminal:
        """A terminal that shows nothing, for Python programs."""
        return cls(Console(file=io.StringIO(), quiet=True))

    @property
    def is_live(self) -> bool:
        """Whether the output is a terminal that can redraw."""
        return self.console.is_terminal

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line as it is; brackets in names are not markup."""
        self.console.print(text, style=style or None, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print something that the user should know."""
        self.line(f"NOTE: {text}", "yellow")

    def notes(self, texts: Iterable[str]) -> None:
        """Print several notes."""
        for text in texts:
            self.note(text)

    def show(self, table: RenderableType) -> None:
        """Print a table."""
        self.console.print(table)

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show a progress bar for `done` of `total`; in plain output a line at the end."""
        started = time.monotonic()
        latest = (0, 0)

        def remember(done: int, total: int) -> None:
            nonlocal latest
            latest = (done, total)

        if self.is_live:
            columns = (
                bars.TextColumn("{task.description}"),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeRemainingColumn(),
            )
            with bars.Progress(*columns, console=self.console, transient=True) as bar:
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
        """Show that work is in progress."""
        if self.is_live:
            with self.console.status(what):
                yield
        else:
            yield


def results_table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """One row per config: mean ± SD over folds at the best epoch, and accuracy at the last."""
    table = Table(
        title="Validation, mean ± SD over folds at the best epoch; Last: at the last epoch"
    )
    table.add_column("Config", overflow="fold", min_width=7)
    table.add_column("Folds", justify="right")
    for name in (row.name for row in HEADLINE_METRICS):
        table.add_column(title(name), justify="right")
    table.add_column("Last acc %", justify="right")
    is_tested = any(summary["test"] for summary in summaries)
    if is_tested:
        table.add_column("Test acc %", justify="right")
    prefix, names = shortened([summary["config"]["name"] for summary in summaries])
    table.caption = f"… stands for {prefix}" if prefix else None
    for name, summary in zip(names, summaries, strict=True):
        best, last = summary["average_results"], summary["last_epoch"]["average_results"]
        table.add_row(
            name,
            f"{best['n']}/{summary['n_folds']}",
            *(shown_spread(spread_of(best, row.name), row.name) for row in HEADLINE_METRICS),
            shown_spread(spread_of(last, "acc"), "acc"),
            *([_tested(summary)] if is_tested else []),
        )
    return table


def _tested(summary: Mapping[str, Any]) -> str:
    """Accuracy on the test images; empty for a config without any."""
    if summary["test"] is None:
        return ""
    return shown_spread(spread_of(summary["test"]["average_results"], "acc", "test"), "acc")


def failures_table(failures: Sequence[tuple[Task, FoldFailure]]) -> Table:
    """One row per fold that failed: why, and where to read more."""
    table = Table(title="Failed folds", title_style="bold red")
    table.add_column("Config", overflow="fold", min_width=7)
    table.add_column("Fold", justify="right")
    table.add_column("Reason", overflow="fold", ratio=2)
    table.add_column("Log", overflow="fold", ratio=1)
    for task, failure in failures:
        reason = Text(f"{failure.kind}: {failure.reason}")  # as it is: brackets are no markup
        table.add_row(Text(task.name), task.short_title, reason, Text(failure.log_file))
    return table


def profile_table(found: FoldProfile) -> Table:
    """One row per phase: seconds and percent."""
    table = Table()
    table.add_column("Phase")
    for name in ("Seconds", "%"):
        table.add_column(name, justify="right")
    for row in found.rows():
        table.add_row(*row)
    return table


def shortened(names: Sequence[str]) -> tuple[str, list[str]]:
    """Take off what all names begin with, up to an underscore, if that saves much.

    Returns it, or an empty text, and the names as they are to be shown: `…_clip` for
    `resnet18_scratch_clip_ViT-B_32_clip`.
    """
    common = os.path.commonprefix(list(names))  # noqa: RUF071 - characters are what is meant
    prefix = common[: common.rfind("_")] if "_" in common else ""
    if len(set(names)) < 2 or len(prefix) < SHORTEST_PREFIX:
        return "", list(names)
    return prefix, [f"…{name.removeprefix(prefix)}" for name in names]


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 36 else f"{hours // 24} d {hours % 24} h"


SECONDS_BETWEEN_LOOKS = 0.5
FOLD_COLUMNS = ("Config", "Fold", "Device", "Epoch", "Step", "Monitored", "Images/s")


@dataclass
class RunView(Observer):
    """Observer of the scheduling loop: a live table of what runs, and a line per event."""

    terminal: Terminal
    tasks: Sequence[Task]
    already_done: int
    on_config_done: Callable[[str], None]
    estimates: Estimates
    _left: dict[str, Task] = field(default_factory=dict)
    _looked: float = 0.0
    _live: Live | None = None

    def __enter__(self) -> RunView:
        self._left = {task.display_name: task for task in self.tasks}
        if self.terminal.is_live:
            self._live = Live(self._table([]), console=self.terminal.console, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, assignment: Assignment) -> None:
        """A fold has begun, or waits for a cluster to begin it."""
        attempt = f" (attempt {assignment.attempt})" if assignment.attempt > 1 else ""
        verb = "handed to" if assignment.device.cluster else "started on"
        self.terminal.line(
            f"{_head(assignment)} {verb} {assignment.tag}{attempt}, log {assignment.log_file}"
        )

    def ended(
        self, assignment: Assignment, state: JobState, failure: FoldFailure | None = None
    ) -> None:
        """A fold has ended: say how, and let the config be summarised."""
        task = assignment.task
        self._left.pop(task.display_name, None)
        result = finished(task)
        if state is JobState.DONE and result is not None:
            self.terminal.line(
                f"{_head(assignment)} done in {duration(result.seconds)}, {_outcome(result)}",
                "green",
            )
        elif state is JobState.INTERRUPTED:
            self.terminal.line(
                f"{_head(assignment)} stopped; run the same command again to resume it",
                "yellow",
            )
        elif failure is not None:
            self._failure(assignment, failure)
        self.on_config_done(task.name)

    def retrying(self, assignment: Assignment, failure: FoldFailure, reason: str) -> None:
        """An attempt failed and another one follows."""
        self._failure(assignment, failure)
        self.terminal.line(f"  {reason}", "yellow")

    def set_aside(self, device: Device, reason: str) -> None:
        """A device gets no more tasks."""
        self.terminal.line(f"{device.log_tag} is set aside: {reason}", "bold red")

    def _failure(self, assignment: Assignment, failure: FoldFailure) -> None:
        self.terminal.line(
            f"{_head(assignment)} FAILED ({failure.kind}): {failure.reason}", "bold red"
        )
        self.terminal.line(f"  see {assignment.log_file}")

    def tick(self, running: Sequence[Assignment]) -> None:
        """Redraw now and then."""
        now = time.monotonic()
        if self._live is not None and now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = now
            self._live.update(self._table(running))

    def _table(self, running: Sequence[Assignment]) -> Table:
        states = {one.task.display_name: read_progress(one.task.paths.progress) for one in running}
        total = self.already_done + len(self.tasks)
        done = total - len(self._left)
        title = f"{done} of {total} {nouns(self.tasks)} done"
        if self.estimates.knows_anything:
            shares = {label: state.share for label, state in states.items() if state is not None}
            left = seconds_left(self._left.values(), shares, self.estimates, len(running))
            title += f", about {duration(left)} left"
        table = Table(title=title, expand=True)
        for name in FOLD_COLUMNS:
            table.add_column(name, overflow="fold" if name == "Config" else "ellipsis")
        for assignment in running:
            task = assignment.task
            table.add_row(
                task.name,
                task.short_title,
                assignment.tag,
                *progress_cells(states[task.display_name], task),
            )
        return table


def progress_cells(state: Progress | None, task: Task) -> tuple[str, str, str, str]:
    """Epoch, step, monitored metric and speed of a fold, as text."""
    if state is None:
        return (f"0/{task.config.epochs}", "starting", "", "")
    return (
        f"{state.epoch}/{state.epochs}",
        f"{state.phase} {state.step}/{state.steps}",
        "" if state.monitored is None else f"{state.monitored:.4f}",
        f"{state.images_per_second:.0f}",
    )


def _head(assignment: Assignment) -> str:
    task = assignment.task
    return f"{task.name}: {task.long_title}"


def _outcome(result: FoldResult) -> str:
    if result.best_epoch is None:
        return f"{result.last_epoch} epochs"
    accuracy, mean_ap = result.best["val_acc"], result.best["val_mAP"]
    text = f"best epoch {result.best_epoch}: val acc {accuracy:.2f}%"
    return text if mean_ap is None else f"{text}, mAP {mean_ap:.2f}%"
