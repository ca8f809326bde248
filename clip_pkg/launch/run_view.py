"""Shows a run while it happens: a live table, and a line per event."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rich.live import Live
from rich.table import Table

from clip_pkg.base.wrapping import NameTable, Parts
from clip_pkg.launch.terminal import Terminal, duration
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, JobState
from clip_pkg.scheduling.loop import Observer
from clip_pkg.scheduling.queue import Estimates, seconds_left
from clip_pkg.study.progress import Progress, read_progress
from clip_pkg.study.tasks import FoldFailure, FoldResult, PretrainTask, Task, finished, nouns

SECONDS_BETWEEN_REDRAWS = 0.5
STEP_WIDTH = 11  # `train 15/20`: columns keep their places while epochs pass


@dataclass
class RunView(Observer):
    """Observer of the scheduling loop: a live table of what runs, and a line per event."""

    terminal: Terminal
    tasks: Sequence[Task]
    already_done: int
    on_ended: Callable[[str], None]
    estimates: Estimates
    _left: dict[str, Task] = field(default_factory=dict)
    _resumed: dict[str, float] = field(default_factory=dict)  # shares at the start, by label
    _redrawn: float = 0.0
    _live: Live | None = None

    def __enter__(self) -> RunView:
        self._left = {task.display_name: task for task in self.tasks}
        for label, task in self._left.items():
            if task.checkpoint_to_resume is not None:
                state = read_progress(task.paths.progress)
                self._resumed[label] = 0.0 if state is None else state.kept_share
        if self.terminal.is_live:
            self._live = Live(self._table([]), console=self.terminal.console, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, assignment: Assignment) -> None:
        """A task was started, or handed to a cluster."""
        attempt = f" (attempt {assignment.attempt})" if assignment.attempt > 1 else ""
        verb = "handed to" if assignment.device.cluster else "started on"
        self.terminal.line(
            f"{_head(assignment)} {verb} {assignment.tag}{attempt}, log {assignment.log_file}"
        )

    def ended(
        self, assignment: Assignment, state: JobState, failure: FoldFailure | None = None
    ) -> None:
        """A task has ended: print how, and summarise its config."""
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
        self.on_ended(task.name)

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
        if self._live is not None and now - self._redrawn >= SECONDS_BETWEEN_REDRAWS:
            self._redrawn = now
            self._live.update(self._table(running))

    def _table(self, running: Sequence[Assignment]) -> Table:
        states = {one.task.display_name: read_progress(one.task.paths.progress) for one in running}
        total = self.already_done + len(self.tasks)
        done = total - len(self._left)
        title = f"{done} of {total} {nouns(self.tasks)} done"
        if self.estimates.knows_anything:
            shares = self._resumed | {
                label: state.share for label, state in states.items() if state is not None
            }
            left = seconds_left(self._left.values(), shares, self.estimates, len(running))
            title += f", about {duration(left)} left"
        table = NameTable(title=title, expand=True)
        table.add_column("Config", overflow="fold")
        for name in progress_columns([one.task for one in running]):
            table.add_column(name, no_wrap=True, min_width=STEP_WIDTH if name == "Step" else None)
        for assignment in running:
            task = assignment.task
            table.add_row(
                Parts(task.name),
                task.short_title,
                assignment.tag,
                *progress_cells(states[task.display_name], task),
            )
        return table


def progress_columns(tasks: Iterable[Task]) -> tuple[str, ...]:
    """Headings beside the config's name; the metric that is monitored, if all have the same one."""
    names = {
        "probe_acc" if isinstance(task, PretrainTask) else task.config.early_stopping_monitor
        for task in tasks
    }
    monitored = names.pop() if len(names) == 1 else "Monitored"
    return ("Fold", "Device", "Epoch", "Step", monitored, "Images/s")


def progress_cells(state: Progress | None, task: Task) -> tuple[str, str, str, str]:
    """Epoch, step, monitored metric and speed of a fold, as text."""
    if state is None:
        return (f"0/{task.config.epochs}", "starting", "", "")
    return (
        f"{state.epoch}/{state.epochs}",
        f"{state.phase} {state.step}/{state.steps}" if state.steps else "starting",
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
