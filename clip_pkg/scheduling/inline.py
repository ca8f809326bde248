"""Runs each task in this process, for debuggers and tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from clip_pkg.base.paths import RunPaths
from clip_pkg.scheduling.job import Assignment, JobState, write_fresh_task
from clip_pkg.scheduling.resources import Execution, Resources, StopOnSignal, local_resources
from clip_pkg.study.tasks import FoldFailure
from clip_pkg.training.worker import carry_out

if TYPE_CHECKING:
    from clip_pkg.training.trainer import Stop


@dataclass(frozen=True)
class FinishedJob:
    """A job that ended before `submit` returned."""

    state: JobState
    failure: FoldFailure | None

    @property
    def process(self) -> str:
        return f"pid {os.getpid()}"

    def poll(self) -> JobState:
        return self.state

    def stop(self) -> None:
        """There is nothing to stop."""

    def kill(self) -> None:
        """There is nothing to kill."""


@dataclass(frozen=True)
class InlineExecutor:
    """Trains in this process; a fold ends early, resumable, once `stop` is true."""

    stop: Stop

    def submit(self, assignments: Sequence[Assignment]) -> list[FinishedJob]:
        return [self._run(one) for one in assignments]

    def _run(self, assignment: Assignment) -> FinishedJob:
        write_fresh_task(assignment.task)
        with assignment.log_file.open("a", encoding="utf-8", buffering=1) as log:
            report = carry_out(assignment.task, assignment.place, log, self.stop)
        return FinishedJob(JobState(report.state), report.failure)

    def close(self) -> None:
        """There is no process to end."""


def open_inline(execution: Execution, run: RunPaths, say: object) -> Resources:
    """Use the first device of this machine."""
    del run, say
    stop = StopOnSignal()
    found = local_resources(execution, InlineExecutor(stop), stop)
    return replace(found, devices=found.devices[:1], most_gpus=1)
