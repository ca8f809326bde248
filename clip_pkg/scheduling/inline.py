"""Runs each task in this very process: for debuggers and for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clip_pkg.scheduling.job import Assignment, JobState

RunAssignment = Callable[[Assignment], JobState]


@dataclass(frozen=True)
class FinishedJob:
    """A job that was over before `submit` returned."""

    assignment: Assignment
    state: JobState

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
        return FinishedJob(assignment, self._run(assignment))

    def close(self) -> None:
        """Nothing is left behind."""
