"""Gives each device the next task as soon as it is free, until nothing is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from clip_pkg.planning.tasks import FoldTask
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, Executor, Job, JobState
from clip_pkg.scheduling.ledger import Ledger

SECONDS_BETWEEN_LOOKS = 0.05


class Observer(Protocol):
    """Who wants to know: the terminal, the summaries."""

    def started(self, assignment: Assignment) -> None:
        """A task has begun on a device."""
        ...

    def ended(self, assignment: Assignment, state: JobState) -> None:
        """A task has ended."""
        ...

    def tick(self, running: Sequence[Assignment]) -> None:
        """Time has passed."""
        ...


@dataclass
class Outcome:
    """How the tasks ended, by state."""

    by_state: dict[JobState, list[FoldTask]] = field(default_factory=dict)

    def add(self, task: FoldTask, state: JobState) -> None:
        """Note the end of a task."""
        self.by_state.setdefault(state, []).append(task)

    def __getitem__(self, state: JobState) -> list[FoldTask]:
        return self.by_state.get(state, [])


@dataclass(frozen=True)
class Loop:
    """The scheduling loop. `log_file` names the log of a task on a device."""

    devices: Sequence[Device]
    executor: Executor
    ledger: Ledger
    observer: Observer
    log_file: Callable[[FoldTask, Device], Path]
    threads: int
    stop_requested: Callable[[], bool]

    def run(self, tasks: Sequence[FoldTask]) -> Outcome:
        """Run every task once, in order, pinned ones on their device. A failure stops no other.

        When a stop is requested, running tasks are asked to checkpoint and nothing new starts.
        """
        waiting = list(tasks)
        running: dict[str, Job] = {}
        outcome = Outcome()
        stopping = False
        while waiting or running:
            if self.stop_requested() and not stopping:
                stopping = True
                waiting.clear()
                for job in running.values():
                    job.stop()
            for device in self.devices:
                if device.id not in running:
                    task = self._next(waiting, device)
                    if task is not None:
                        running[device.id] = self._start(task, device)
            for device_id, job in list(running.items()):
                state = job.poll()
                if state is not JobState.RUNNING:
                    del running[device_id]
                    outcome.add(job.assignment.task, state)
                    self._record(state.value, job.assignment)
                    self.observer.ended(job.assignment, state)
            self.observer.tick([job.assignment for job in running.values()])
            if running:
                time.sleep(SECONDS_BETWEEN_LOOKS)
        return outcome

    def _next(self, waiting: list[FoldTask], device: Device) -> FoldTask | None:
        listed = {known.id for known in self.devices}
        for position, task in enumerate(waiting):
            pinned = task.config.get("gpu_id")
            # A pin to a device that this run does not have was reported before the start.
            if pinned is None or str(pinned) == device.id or str(pinned) not in listed:
                return waiting.pop(position)
        return None

    def _start(self, task: FoldTask, device: Device) -> Job:
        log = self.log_file(task, device)
        log.parent.mkdir(parents=True, exist_ok=True)
        assignment = Assignment(task, device, log, self.threads)
        job = self.executor.submit(assignment)
        self._record("running", assignment)
        self.observer.started(assignment)
        return job

    def _record(self, event: str, assignment: Assignment) -> None:
        self.ledger.append(
            event,
            config=assignment.task.name,
            fold=assignment.task.fold,
            device=assignment.device.id,
            log_file=str(assignment.log_file),
        )
