"""Runs each fold as a job of a Slurm cluster, through submitit.

The files in a fold's folder are the truth about it, as everywhere; squeue tells what they cannot:
that a job waits, runs, or has ended without a word. Jobs carry the name of the output folder, so
that a launcher finds those that an earlier one left when it died, and takes them over.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import (
    DelayedSubmission,
    FailedJobError,
    FailedSubmissionError,
    JobPaths,
)

from clip_pkg.base.errors import UserError
from clip_pkg.scheduling.job import Assignment, JobState, prepare
from clip_pkg.scheduling.process import LINES_OF_A_CRASH, last_lines
from clip_pkg.scheduling.slurm_options import SlurmOptions, sbatch_parameters
from clip_pkg.scheduling.slurm_queue import QueuedJob, SlurmQueue, Snapshot, job_name
from clip_pkg.scheduling.slurm_task import RunTask, SlurmTask, setup_lines
from clip_pkg.study.identity import PACKAGE
from clip_pkg.study.tasks import FailureKind, FoldFailure, finished, read_record, write_record

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


MOST_JOBS_OF_AN_ARRAY = 1000  # Slurm's default limit is 1001


class SlurmExecutor:
    """Submits what comes within one batch as one array of jobs.

    run: carries out a task on the node; found there by its name, so it is a module's function.
    folder: for submitit's files, seen by all nodes, in the output folder. say: tells people.
    """

    def __init__(
        self, run: RunTask, options: SlurmOptions, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._run = run
        self._options = options
        self._folder = folder
        self._say = say
        self._queue = SlurmQueue(job_name(folder.parent), say)
        self._jobs: list[SlurmJob] = []
        self._collected: list[SlurmJob] = []
        self._is_collecting = False
        self._began = False

    def submit(self, assignments: Sequence[Assignment]) -> list[SlurmJob]:
        with self.batch():
            return [self._start(one) for one in assignments]

    def _start(self, assignment: Assignment) -> SlurmJob:
        """Hand to the cluster, at the end of the batch."""
        job = SlurmJob(assignment, self._queue, self._folder)
        self._collected.append(job)
        if not self._is_collecting:
            self._send_collected()
        return job

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Submit what comes within as one array."""
        self._is_collecting = True
        try:
            yield
        finally:
            self._is_collecting = False
        self._send_collected()

    def _send_collected(self) -> None:
        jobs, self._collected = self._collected, []
        if not jobs:
            return
        if not self._began:
            self._began = True
            self._folder.mkdir(parents=True, exist_ok=True)
            jobs = self._take_over(jobs)
        for gpus in sorted({job.assignment.task.gpus for job in jobs}):
            alike = [job for job in jobs if job.assignment.task.gpus == gpus]
            for start in range(0, len(alike), MOST_JOBS_OF_AN_ARRAY):
                self._send(gpus, alike[start : start + MOST_JOBS_OF_AN_ARRAY])

    def _send(self, gpus: int, jobs: Sequence[SlurmJob]) -> None:
        for job in jobs:
            prepare(job.assignment.task)
        parameters = sbatch_parameters(
            self._options,
            gpus,
            job_name=self._queue.name,
            setup=list(setup_lines(PACKAGE.parent)),
            parallel=self._options.max_jobs or MOST_JOBS_OF_AN_ARRAY,
        )
        calls = [self._call(job.assignment) for job in jobs]
        try:
            # What sbatch says comes with the error; submitit prints it, too.
            with outside_any_job(), contextlib.redirect_stderr(io.StringIO()):
                executor = submitit.SlurmExecutor(self._folder)
                executor.update_parameters(**parameters)
                submitted = executor.submit_array(calls)
        except (FailedJobError, FailedSubmissionError) as error:
            reason = f"Slurm did not take the jobs: {_sentence(error)}"
            if not self._jobs:
                raise UserError(
                    f"{reason}. See --partition, --time, --gres, --slurm-option and --max-jobs"
                ) from None
            for job in jobs:
                job.fail("crash", reason)
            return
        for job, its in zip(jobs, submitted, strict=True):
            job.begin(its.job_id)
        self._jobs += jobs
        self._queue.submitted()

    def _call(self, assignment: Assignment) -> SlurmTask:
        request = self._options.request(assignment.task.gpus)
        return SlurmTask(
            self._run,
            assignment.task,
            str(assignment.log_file),
            tuple(sorted(request.items())),
        )

    # --- what a launcher that died has left

    def _take_over(self, jobs: Sequence[SlurmJob]) -> list[SlurmJob]:
        """Adopt jobs of an earlier launcher that do the same; end others, and return the rest."""
        leftovers = {name: self._submission(name) for name in self._queue.ask().active}
        rest = []
        for job in jobs:
            name = next((name for name, one in leftovers.items() if self._is_same(one, job)), None)
            if name is None:
                rest.append(job)
                continue
            earlier = leftovers.pop(name)
            assert earlier is not None, "nothing is the same as nothing"
            job.assignment = replace(
                job.assignment, task=earlier.task, log_file=Path(earlier.log_file)
            )
            job.begin(name)
            self._jobs.append(job)
            self._say(
                f"{earlier.task.display_name}: already in Slurm job {name}, log {earlier.log_file}"
            )
        self._end(list(leftovers))
        return rest

    def _submission(self, name: str) -> SlurmTask | None:
        """What a job was submitted to do; None if that cannot be told any more."""
        try:
            submission = DelayedSubmission.load(
                JobPaths(self._folder, job_id=name).submitted_pickle
            )
        except Exception:  # whatever an older version or a crash may have left
            return None
        function: Any = submission.function
        return function if isinstance(function, SlurmTask) else None

    def _is_same(self, earlier: SlurmTask | None, job: SlurmJob) -> bool:
        mine = self._call(job.assignment)
        return (
            earlier is not None
            and earlier.request == mine.request
            # The batch of a retry may have been computed in smaller parts.
            and replace(earlier.task, micro_batch_size=None) == mine.task
        )

    def end_leftovers(self) -> None:
        """End what an earlier launcher left, before its results are moved away."""
        self._end(self._queue.ask().active)

    def _end(self, names: Sequence[str]) -> None:
        if names:
            self._say(f"Ending {len(names)} Slurm job(s) of an earlier launcher; they checkpoint.")
            self._queue.end(names)

    def close(self) -> None:
        """Leave no job behind."""
        if not self._began:
            return
        if not self._queue.end():
            self._say(f"Slurm still shows jobs of this run: squeue --name={self._queue.name}")
        elif all(job.failure is None for job in self._jobs):
            shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def outside_any_job() -> Iterator[None]:
    """Hide the job that the launcher itself may run in; sbatch would pass its shape on."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "SRUN_", "SUBMITIT_EXECUTOR")) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines).replace("sbatch: error: ", "") or type(error).__name__
