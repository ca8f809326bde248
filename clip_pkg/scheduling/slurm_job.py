"""One fold with a Slurm cluster, as its files and the queue tell."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from submitit.core.utils import JobPaths

from clip_pkg.planning.tasks import (
    FailureKind,
    FoldFailure,
    finished,
    read_record,
    write_record,
)
from clip_pkg.scheduling.job import Assignment, JobState
from clip_pkg.scheduling.processes import LINES_OF_A_CRASH, last_lines
from clip_pkg.scheduling.slurm_queue import QueuedJob, SlurmQueue, Snapshot

SECONDS_BETWEEN_LOOKS = 2.0
# What a node has written just before its job ended can be late on a network file system.
SECONDS_FOR_LATE_FILES = 30.0
SECONDS_TO_BE_SURE = 4.0  # of an end that leaves no files
HINTS = {
    "OUT_OF_MEMORY": "; ask for more with --slurm-option mem=...",
    "TIMEOUT": "; give it more with --time",
}


class SlurmJob:
    """One assignment with the cluster."""

    def __init__(self, assignment: Assignment, queue: SlurmQueue, folder: Path) -> None:
        self.assignment = assignment
        self.failure: FoldFailure | None = None
        self.id = ""
        self._queue = queue
        self._folder = folder
        self._state = JobState.QUEUED
        self._submitted = 0.0
        self._looked = 0.0
        self._snapshot: Snapshot | None = None
        self._gone_since: float | None = None
        self._is_stopping = False

    @property
    def process(self) -> str:
        """How Slurm calls it."""
        return f"Slurm job {self.id}" if self.id else ""

    def begin(self, name: str) -> None:
        """Note that it was submitted."""
        self.id, self._submitted = name, time.monotonic()

    def fail(self, kind: FailureKind, reason: str, detail: str = "") -> JobState:
        """Note why it has failed, also in the fold's folder."""
        task = self.assignment.task
        log_file = str(self.assignment.log_file)
        self.failure = FoldFailure(task.identity, task.fold, kind, reason, detail, log_file)
        with contextlib.suppress(OSError):  # a full disk may be the very reason; the ledger knows
            write_record(task.paths.failure, self.failure)
        self._state = JobState.FAILED
        return self._state

    def poll(self) -> JobState:
        """Return the state now, without waiting; looks at files and queue every few seconds."""
        if self._state.is_over or not self.id:
            return self._state
        snapshot = self._queue.look()
        now = time.monotonic()
        if snapshot is not self._snapshot or now - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._snapshot, self._looked = snapshot, now
            self._state = self._look(snapshot)
        return self._state

    def _look(self, snapshot: Snapshot) -> JobState:
        task = self.assignment.task
        # Reading a folder makes network file systems look for new files in it.
        with contextlib.suppress(FileNotFoundError):
            list(task.paths.root.iterdir())
        if finished(task) is not None:
            return JobState.DONE
        self.failure = read_record(FoldFailure, task.paths.failure)
        if self.failure is not None:
            return JobState.FAILED
        if snapshot.time < self._submitted:
            return self._state  # asked before it was there
        job = snapshot.jobs.get(self.id)
        if job is None or job.is_over:
            return self._end(job)
        self._gone_since = None
        if job.is_stuck and not self._is_stopping:
            self.kill()
            return self.fail("crash", f"{self.process} cannot be started: {job.reason}")
        return JobState.QUEUED if job.is_waiting else JobState.RUNNING

    def _end(self, job: QueuedJob | None) -> JobState:
        """The job is over and there is no file that says how it went, at least not yet."""
        may_be_late = job is None or job.state == "COMPLETED"
        if self._is_stopping and not may_be_late:
            return JobState.INTERRUPTED
        now = time.monotonic()
        if self._gone_since is None:
            self._gone_since = now
        patience = SECONDS_FOR_LATE_FILES if may_be_late else SECONDS_TO_BE_SURE
        if now - self._gone_since < patience:
            return self._state
        if self._is_stopping:
            return JobState.INTERRUPTED
        output = JobPaths(self._folder, job_id=self.id).stdout
        lines = [
            *last_lines(self.assignment.log_file, LINES_OF_A_CRASH),
            *last_lines(output, LINES_OF_A_CRASH),
        ]
        kind: FailureKind = "crash"
        how = "is not known to Slurm any more and left no result"
        if job is not None:
            kind = "out of memory" if job.state == "OUT_OF_MEMORY" else "crash"
            why = "" if job.reason == "None" else f" ({job.reason})"
            where = f" on {job.node}" if job.node else ""
            how = f"ended as {job.state}{why}{where} without a result{HINTS.get(job.state, '')}"
        return self.fail(kind, f"{self.process} {how}", "\n".join(lines))

    def stop(self) -> None:
        """Take it out of the queue, or ask for a checkpoint and an end."""
        self._is_stopping = True
        if self.id and not self._state.is_over:
            self._queue.stop(self.id)

    def kill(self) -> None:
        """Cancel it."""
        if self.id:
            self._queue.cancel([self.id])
