"""One worker process per slot, which trains several tasks.

Importing torch takes seconds, so a worker imports it once and then reads tasks as JSON lines from
its standard input and writes one JSON line for each. After a failure the next task gets a new
process. A worker whose launcher is gone sees the end of its standard input and ends, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from clip_pkg.base.paths import RunPaths
from clip_pkg.scheduling.devices import Device, child_environment
from clip_pkg.scheduling.job import Assignment, JobState, prepare
from clip_pkg.scheduling.resources import Execution, Resources, StopOnSignal, local_resources
from clip_pkg.study.tasks import FoldFailure, failure_from_json, finished, read_record, write_record

SECONDS_TO_LEAVE = 5.0
LINES_OF_A_CRASH = 15


class Worker:
    """A worker process on a device, or on several for a task that several GPUs train."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "clip_pkg.training.worker", "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(devices, os.environ),
            start_new_session=True,  # Ctrl-C reaches the launcher only; it decides what to do
            text=True,
            encoding="utf-8",
        )
        os.set_blocking(self._stdout.fileno(), False)
        self._received = ""

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, task_file: str | Path, place: Mapping[str, Any]) -> None:
        """Start a task; the answer has its `state` (done, failed, interrupted) and `failure`."""
        self._write({"task_file": str(task_file), "place": place})

    def ask(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Check whether these encoders can be used here; the answer has their `problems`."""
        self._write({"probe": list(requests)})

    def _write(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        # A worker that died at once is noticed by the next poll.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any] | None:
        """Return the next answer, or None if there is none yet."""
        with contextlib.suppress(BlockingIOError):
            self._received += os.read(self._stdout.fileno(), 65536).decode("utf-8")
        line, found, rest = self._received.partition("\n")
        if not found:
            return None
        self._received = rest
        answer: dict[str, Any] = json.loads(line)
        return answer

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the process runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it and all processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close its standard input, which ends it after a checkpoint; kill it if that fails."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(SECONDS_TO_LEAVE)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._stdout.close()


class ProcessJob:
    """One assignment in a worker process."""

    def __init__(self, assignment: Assignment, worker: Worker) -> None:
        self.assignment = assignment
        self.failure: FoldFailure | None = None
        self._worker = worker
        self._state = JobState.RUNNING

    @property
    def process(self) -> str:
        return f"pid {self._worker.pid}"

    def poll(self) -> JobState:
        if self._state is not JobState.RUNNING:
            return self._state
        code = self._worker.exit_code()
        answer = self._worker.answer()
        if answer is not None:
            self._state = JobState(answer["state"])
            if answer.get("failure") is not None:
                self.failure = failure_from_json(answer["failure"])
        elif code is not None:
            self._state = JobState.FAILED
            self.failure = crash(self.assignment, how_it_ended(code))
        if self._state is JobState.DONE and finished(self.assignment.task) is None:
            self._state = JobState.FAILED  # an answer without a valid result file is no success
            self.failure = crash(self.assignment, "reported success but left no result")
        return self._state

    def stop(self) -> None:
        self._worker.signal(signal.SIGTERM)

    def kill(self) -> None:
        self._worker.kill()


def how_it_ended(code: int) -> str:
    """Describe the exit code of a process, negative for a signal."""
    return f"ended with signal {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def crash(assignment: Assignment, how: str) -> FoldFailure:
    """Describe the end of a worker that reported nothing, also in the fold's folder."""
    task = assignment.task
    left = read_record(FoldFailure, task.paths.failure)
    if left is not None:
        return left
    failure = FoldFailure(
        identity=task.identity,
        fold=task.fold,
        kind="crash",
        reason=f"the worker process {how} and left no message",
        detail="\n".join(last_lines(assignment.log_file, LINES_OF_A_CRASH)),
        log_file=str(assignment.log_file),
    )
    with contextlib.suppress(OSError):  # a full disk may be the very reason; the ledger knows
        write_record(task.paths.failure, failure)
    return failure


class ProcessExecutor:
    """Keeps a worker per slot and replaces those that failed."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._jobs: dict[str, ProcessJob] = {}

    def submit(self, assignments: Sequence[Assignment]) -> list[ProcessJob]:
        return [self._start(one) for one in assignments]

    def _start(self, assignment: Assignment) -> ProcessJob:
        """Start on the slot's worker, or on a new one if the last task there failed."""
        key = "+".join(slot.name for slot in assignment.slots)
        previous = self._jobs.get(key)
        if previous is not None and previous.poll() is not JobState.DONE:
            self._workers.pop(key).close()
        self._close_overlapping(key, assignment)
        worker = self.worker(key, [slot.device for slot in assignment.slots])
        job = self._jobs[key] = ProcessJob(assignment, worker)
        prepare(assignment.task)
        worker.send(assignment.task.paths.task, assignment.place)
        return job

    def worker(self, key: str, devices: Sequence[Device]) -> Worker:
        """Return the worker of a slot, or of several by their joint name; start it if necessary."""
        if key not in self._workers:
            self._workers[key] = Worker(devices)
        return self._workers[key]

    def _close_overlapping(self, key: str, assignment: Assignment) -> None:
        """End idle workers on some of the slots, where they hold memory."""
        names = {slot.name for slot in assignment.slots}
        for other in list(self._workers):
            if other != key and names & set(other.split("+")):
                self._workers.pop(other).close()
                self._jobs.pop(other, None)

    def close(self) -> None:
        """Leave no process behind."""
        for key, worker in self._workers.items():
            job = self._jobs.get(key)
            if job is not None and job.poll() is JobState.RUNNING:
                job.kill()
            worker.close()
        self._workers.clear()


def last_lines(path: Path, count: int) -> list[str]:
    """Last lines of a log; empty if there is no log."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def open_processes(execution: Execution, run: RunPaths, say: object) -> Resources:
    """Use the devices of this machine."""
    del run, say
    return local_resources(execution, ProcessExecutor(), StopOnSignal())
