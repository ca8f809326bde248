"""Runs each task in this very process: for debuggers and for tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from clip_pkg.scheduling.job import Assignment, JobState, lay_out
from clip_pkg.study.tasks import FoldFailure, read_record

RunAssignment = Callable[[Assignment], JobState]


@dataclass(frozen=True)
class FinishedJob:
    """A job that was over before `submit` returned."""

    assignment: Assignment
    state: JobState

    @property
    def process(self) -> str:
        """The id of this process."""
        return f"pid {os.getpid()}"

    @property
    def failure(self) -> FoldFailure | None:
        """What it left when it failed."""
        return read_record(FoldFailure, self.assignment.task.paths.failure)

    def poll(self) -> JobState:
        """Return how it ended."""
        return self.state

    def stop(self) -> None:
        """Nothing to stop."""

    def kill(self) -> None:
        """Nothing to kill."""


class InlineExecutor:
    """Calls `run`, which imports what it needs; the loop stays free of torch."""

    def __init__(self, run: RunAssignment) -> None:
        self._run = run

    def submit(self, assignment: Assignment) -> FinishedJob:
        """Run to the end."""
        lay_out(assignment.task)
        return FinishedJob(assignment, self._run(assignment))

    def batch(self) -> AbstractContextManager[None]:
        """Nothing travels."""
        return nullcontext()

    def close(self) -> None:
        """Nothing is left behind."""
