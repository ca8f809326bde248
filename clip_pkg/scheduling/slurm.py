"""Runs each task as a job of a Slurm cluster, submitted with sbatch as an element of an array.

A fold's files show whether it is done, as with every executor. squeue reports the rest: that a job
waits, runs, or ended without a result. Jobs carry the name of the output folder, so that a launcher
finds and cancels those of an earlier launcher. Only the controller is queried, so no accounting
database is needed; it forgets a job some minutes after its end (MinJobAge).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_pkg.base.child_process import last_lines
from clip_pkg.base.errors import RunFolderError, UserError
from clip_pkg.base.files import write_json, write_text
from clip_pkg.base.paths import RunPaths
from clip_pkg.scheduling.job import Assignment, JobState, write_fresh_task
from clip_pkg.scheduling.resources import Execution, Resources, queue_places
from clip_pkg.scheduling.slurm_job import REQUEUE_SIGNAL, STOP_SIGNAL, call_slurm
from clip_pkg.scheduling.slurm_options import SlurmOptions
from clip_pkg.study.identity import PACKAGE, digest
from clip_pkg.study.tasks import (
    FailureKind,
    FoldFailure,
    Task,
    failure_of,
    finished,
    left_failure,
    read_task,
    record_failure,
)

COMMANDS = ("sbatch", "srun", "squeue", "scancel")
MAX_JOBS_OF_AN_ARRAY = 1000  # Slurm's default limit is 1001
MIN_PAUSE, MAX_PAUSE = 2.0, 30.0  # seconds between two calls of squeue
SECONDS_OF_SILENCE = 120.0  # before a notice that Slurm does not respond
SECONDS_TO_CANCEL = 10.0  # scancel itself would retry for a minute
SECONDS_TO_EMPTY = 90.0  # Slurm gives a job half a minute by default (KillWait)
SECONDS_BETWEEN_CHECKS = 0.5  # while users wait for jobs to end
# What a node has written just before its job ended can be late on a network file system.
SECONDS_FOR_LATE_FILES = 30.0
SECONDS_TO_BE_SURE = 4.0  # of an end without result or failure file
WAITING = frozenset(
    [
        "CONFIGURING",
        "PENDING",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESV_DEL_HOLD",
        "SPECIAL_EXIT",
    ]
)
OVER = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    ]
)  # a job that is COMPLETING may still be requeued
USUAL_REASONS = frozenset(
    ["BeginTime", "Cleaning", "Dependency", "JobArrayTaskLimit", "None", "Priority", "Resources"]
)  # for a job to wait
HINTS = {
    "OUT_OF_MEMORY": "; ask for more with --slurm-option mem=...",
    "TIMEOUT": "; give it more with --time",
}


@dataclass(frozen=True)
class QueuedJob:
    """A line of squeue; reason: why the job waits or how it ended."""

    state: str
    reason: str
    node: str

    @property
    def is_waiting(self) -> bool:
        return self.state in WAITING

    @property
    def is_stuck(self) -> bool:
        """Whether Slurm failed to start it and will not try again."""
        return self.is_waiting and "launch failed" in self.reason.replace("_", " ").lower()


class SlurmQueue:
    """The user's jobs of one name, by id (`12_3`). say: shows a line to the user."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self.name = name
        self.jobs: Mapping[str, QueuedJob] = {}
        self.time = -math.inf  # of the call of squeue that reported `jobs`
        self._say = say
        self._asked = -math.inf
        self._responded = self._changed = time.monotonic()
        self._stopping: set[str] = set()
        self._shown: set[str] = set()

    def active(self) -> list[str]:
        """Ids of the jobs that are not over."""
        return [name for name, job in self.jobs.items() if job.state not in OVER]

    def update(self) -> None:
        """Call squeue again if `jobs` is old; the pauses grow while nothing changes."""
        now = time.monotonic()
        pause = min(MAX_PAUSE, max(MIN_PAUSE, (now - self._changed) / 10))
        if now - self._asked < (MIN_PAUSE if self._stopping else pause):
            return
        self.refresh()
        # Repeated until the jobs are over, because a job that is starting receives no signal.
        stopping = [name for name in self.active() if name in self._stopping]
        waiting = [name for name in stopping if self.jobs[name].is_waiting]
        running = [name for name in stopping if name not in waiting]
        if waiting:
            self.cancel(["--state=PENDING", *waiting])
        if running:
            self.cancel([f"--signal={STOP_SIGNAL.name.removeprefix('SIG')}", *running])

    def refresh(self) -> None:
        """Call squeue; if it does not respond, `jobs` is unchanged."""
        asked = self._asked = time.monotonic()
        where = ["--states=all", f"--user={os.getuid()}", f"--name={self.name}"]
        done = call_slurm("squeue", "--noheader", "--array", *where, "--format=%i|%T|%r|%N")
        if done is None or done.returncode != 0:
            if time.monotonic() - self._responded > SECONDS_OF_SILENCE:
                message = f" ({done.stderr.strip()})" if done is not None else ""
                self._say_once(
                    f"Slurm does not respond{message}. Jobs continue; their results are seen as "
                    "soon as their files exist."
                )
            return
        jobs = {}
        for line in done.stdout.splitlines():
            name, state, reason, node = [part.strip() for part in line.split("|", 3)]
            jobs[name] = job = QueuedJob(state, reason, node)
            if job.is_waiting and reason not in USUAL_REASONS:
                self._say_once(f"Jobs wait in Slurm's queue: {reason}")
        if jobs != self.jobs:
            self._changed = asked
        self.jobs, self.time, self._responded = jobs, asked, time.monotonic()

    def submitted(self) -> None:
        """Call squeue soon, because new jobs may start."""
        self._changed = time.monotonic()

    def stop(self, name: str) -> None:
        """Remove a waiting job; ask a running one to write a checkpoint and end."""
        self._stopping.add(name)
        self._asked = -math.inf

    def cancel(self, words: Collection[str]) -> None:
        """Call scancel, without its exit code: the next call of squeue shows the effect."""
        call_slurm("scancel", "--quiet", *words, seconds=SECONDS_TO_CANCEL)

    def end(self) -> bool:
        """Cancel all jobs of this name and wait; returns whether none is left."""
        began = time.monotonic()
        while time.monotonic() - began <= SECONDS_TO_EMPTY:
            self.cancel([f"--user={os.getuid()}", f"--name={self.name}"])
            for _ in range(20):
                self.refresh()
                if self.time >= began and not self.active():
                    return True
                time.sleep(SECONDS_BETWEEN_CHECKS)
        return False

    def _say_once(self, message: str) -> None:
        if message not in self._shown:
            self._shown.add(message)
            self._say(message)


class SlurmJob:
    """One assignment as a job."""

    def __init__(self, assignment: Assignment, queue: SlurmQueue, folder: Path) -> None:
        self.assignment = assignment
        self.failure: FoldFailure | None = None
        self.id = ""
        self._queue = queue
        self._folder = folder
        self._state = JobState.QUEUED
        self._submitted = 0.0
        self._checked = 0.0
        self._gone_since: float | None = None
        self._is_stopping = False

    @property
    def process(self) -> str:
        return f"Slurm job {self.id}" if self.id else ""

    def begin(self, name: str) -> None:
        self.id, self._submitted = name, time.monotonic()

    def fail(self, kind: FailureKind, reason: str, detail: str = "") -> JobState:
        """Record why it failed, also in the fold's folder."""
        task = self.assignment.task
        failure = failure_of(task, kind, reason, self.assignment.log_file, detail)
        self.failure = record_failure(task, failure)
        self._state = JobState.FAILED
        return self._state

    def poll(self) -> JobState:
        """Return the state; checks files and queue every few seconds."""
        if self._state.is_over or not self.id:
            return self._state
        self._queue.update()
        now = time.monotonic()
        if self._queue.time > self._checked or now - self._checked >= MIN_PAUSE:
            self._checked = now
            self._state = self._check()
        return self._state

    def _check(self) -> JobState:
        task = self.assignment.task
        # Reading a folder makes network file systems show new files.
        with contextlib.suppress(FileNotFoundError):
            list(task.paths.root.iterdir())
        if finished(task) is not None:
            return JobState.DONE
        self.failure = left_failure(task)
        if self.failure is not None:
            return JobState.FAILED
        if self._queue.time < self._submitted:
            return self._state
        job = self._queue.jobs.get(self.id)
        if job is None or job.state in OVER:
            return self._end(job)
        self._gone_since = None
        if job.is_stuck and not self._is_stopping:
            self.kill()
            return self.fail("crash", f"{self.process} cannot be started: {job.reason}")
        return JobState.QUEUED if job.is_waiting else JobState.RUNNING

    def _end(self, job: QueuedJob | None) -> JobState:
        """Return the state of a job that has ended and left neither result nor failure so far."""
        may_be_late = job is None or job.state == "COMPLETED"
        now = time.monotonic()
        self._gone_since = self._gone_since or now
        patience = SECONDS_FOR_LATE_FILES if may_be_late else SECONDS_TO_BE_SURE
        if self._is_stopping and not may_be_late:
            patience = 0.0
        if now - self._gone_since < patience:
            return self._state
        if self._is_stopping:
            return JobState.INTERRUPTED
        output = self._folder / f"{self.id}.out"
        lines = [
            *last_lines(self.assignment.log_file),
            *last_lines(output),
        ]
        kind: FailureKind = "crash"
        how = "is no longer known to Slurm and left no result"
        if job is not None:
            kind = "out of memory" if job.state == "OUT_OF_MEMORY" else "crash"
            why = "" if job.reason == "None" else f" ({job.reason})"
            where = f" on {job.node}" if job.node else ""
            how = f"ended as {job.state}{why}{where} without a result{HINTS.get(job.state, '')}"
        # It may have waited in the queue for hours after its task was written.
        if _is_lost(self.assignment.task):
            kind = "damaged file"
        return self.fail(kind, f"{self.process} {how}", "\n".join(lines))

    def stop(self) -> None:
        self._is_stopping = True
        if self.id and not self._state.is_over:
            self._queue.stop(self.id)

    def kill(self) -> None:
        if self.id:
            self._queue.cancel([self.id])


class SlurmExecutor:
    """Submits the tasks that are submitted together as one array per number of GPUs.

    folder: for scripts and output of jobs; every node must see it. say: shows a line to the user.
    """

    def __init__(self, options: SlurmOptions, folder: Path, say: Callable[[str], None]) -> None:
        self._options = options
        self._folder = folder
        self._say = say
        self._queue = SlurmQueue(job_name(folder.parent), say)
        self._jobs: list[SlurmJob] = []
        self._arrays = 0
        self._began = False

    def submit(self, assignments: Sequence[Assignment]) -> list[SlurmJob]:
        if not self._began:
            self.cancel_leftovers()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            self._began = True
        jobs = [SlurmJob(one, self._queue, self._folder) for one in assignments]
        for gpus in sorted({one.task.gpus for one in assignments}):
            alike = [job for job in jobs if job.assignment.task.gpus == gpus]
            for start in range(0, len(alike), MAX_JOBS_OF_AN_ARRAY):
                self._submit_array(gpus, alike[start : start + MAX_JOBS_OF_AN_ARRAY])
        return jobs

    def _submit_array(self, gpus: int, jobs: Sequence[SlurmJob]) -> None:
        self._arrays += 1
        tasks_file = self._folder / f"{self._arrays}.json"
        tasks = []
        for job in jobs:
            write_fresh_task(job.assignment.task)
            log_file = str(job.assignment.log_file)
            tasks.append({"task_file": str(job.assignment.task.paths.task), "log_file": log_file})
        write_json(tasks_file, tasks)
        script = tasks_file.with_suffix(".sh")
        write_text(script, self._script(gpus, tasks_file, len(jobs)))
        # sbatch would pass on the resources of the launcher's own job.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "SRUN_")) or name == "SLURM_CONF"
        }
        done = call_slurm("sbatch", "--parsable", str(script), environment=environment)
        if done is None or done.returncode != 0:
            lines = [] if done is None else [line.strip() for line in done.stderr.splitlines()]
            text = "; ".join(filter(None, lines)).replace("sbatch: error: ", "")
            reason = f"Slurm did not accept the jobs: {text or 'sbatch does not respond'}"
            if not self._jobs:
                hint = "See --partition, --time, --gres, --slurm-option and --max-jobs"
                raise UserError(f"{reason}. {hint}")
            for job in jobs:
                job.fail("crash", reason)
            return
        array = done.stdout.strip().partition(";")[0]
        for index, job in enumerate(jobs):
            job.begin(f"{array}_{index}")
        self._jobs += jobs
        self._queue.submitted()

    def _script(self, gpus: int, tasks_file: Path, count: int) -> str:
        parallel = min(count, self._options.max_jobs or count)
        signal_name = REQUEUE_SIGNAL.name.removeprefix("SIG")
        parameters = {
            **self._options.request(gpus),
            "array": f"0-{count - 1}%{parallel}",
            "job-name": self._queue.name,
            "nodes": 1,
            "open-mode": "append",
            "output": str(self._folder / "%A_%a.out"),
            "requeue": True,  # also where lost jobs stay lost by default
            "signal": f"{signal_name}@{self._options.seconds_of_warning}",
        }
        flags = [
            f"#SBATCH --{key}" if value is True else f"#SBATCH --{key}={shlex.quote(str(value))}"
            for key, value in sorted(parameters.items())
        ]
        program = [sys.executable, "-u", "-m", "clip_pkg.scheduling.slurm_job", str(tasks_file)]
        lines = [
            "#!/bin/bash",
            *flags,
            # This package, even if the cluster does not pass environments on.
            f"export PYTHONPATH={shlex.quote(str(PACKAGE.parent))}${{PYTHONPATH:+:$PYTHONPATH}}",
            # Threads that wait by spinning make training many times slower on a shared CPU.
            'export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"',
            "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
            # srun of Slurm 22.05 and later does not inherit this from sbatch.
            'if [ -n "${SLURM_CPUS_PER_TASK-}" ]; then',
            '  export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',
            "fi",
            shlex.join(["srun", "--unbuffered", *program]),
        ]
        return "\n".join(lines) + "\n"

    def cancel_leftovers(self) -> None:
        """Cancel the jobs of an earlier launcher; they write a checkpoint first."""
        self._queue.refresh()
        left = len(self._queue.active())
        if left:
            self._say(f"Cancelling {left} Slurm job(s) of an earlier launcher.")
            self._end_all()

    def _end_all(self) -> bool:
        gone = self._queue.end()
        if not gone:
            self._say(f"Slurm still shows jobs of this run: squeue --name={self._queue.name}")
        return gone

    def close(self) -> None:
        """Leave no job behind."""
        if self._began and self._end_all() and all(job.failure is None for job in self._jobs):
            shutil.rmtree(self._folder, ignore_errors=True)


def _is_lost(task: Task) -> bool:
    """Whether the file of a task is missing or damaged."""
    try:
        return read_task(task.paths.task) is None
    except RunFolderError:
        return True


def job_name(output_dir: Path) -> str:
    """Name of the jobs of an output folder, recognisable for users and unique."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", output_dir.name)[:40].strip("_") or "clip_pkg"
    return f"{readable}-{digest(str(output_dir))[:10]}"


def open_slurm(execution: Execution, run: RunPaths, say: Callable[[str], None]) -> Resources:
    """Use Slurm's commands. Raises UserError if this machine has none."""
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent:
        raise UserError(
            f"--executor slurm: this machine has no {' and no '.join(absent)}; start the run where "
            "jobs are submitted, or leave out --executor to train here"
        )
    options = execution.slurm
    executor = SlurmExecutor(options, run.slurm, say)
    notices = []
    if execution.gpus is not None:
        notices.append(f"--gpus {execution.gpus} has no effect: Slurm chooses the GPUs.")
    if not options.asks_for_gpus:
        notices.append("The jobs ask for no GPU (--gres gpu:1): folds train on the CPU.")
    return Resources(
        devices=queue_places("slurm", options.max_jobs or 1),
        executor=executor,
        notices=notices,
        queue="slurm",
        cancel_leftovers=executor.cancel_leftovers,
    )
