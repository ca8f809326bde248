"""One worker process per slot, which trains several tasks.

Importing torch takes seconds, so a worker imports it once and then reads tasks as JSON lines from
its standard input and writes one JSON line for each. After a failure the next task runs in a new
process. A worker exits at the end of its standard input, that is, when its launcher has exited.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from clip_pkg.base.child_process import ChildProcess, how_it_ended, last_lines
from clip_pkg.base.paths import RunPaths
from clip_pkg.scheduling.devices import Device, child_environment
from clip_pkg.scheduling.job import Assignment, JobState, write_fresh_task
from clip_pkg.scheduling.resources import Execution, Resources, StopOnSignal, local_resources
from clip_pkg.study.tasks import (
    FoldFailure,
    failure_from_json,
    failure_of,
    finished,
    left_failure,
    record_failure,
    task_to_json,
)
from clip_pkg.training.worker import TaskPlacement


class Worker(ChildProcess):
    """A worker process on a device, or on several for a task that several GPUs train."""

    def __init__(self, devices: Sequence[Device]) -> None:
        super().__init__(
            "clip_pkg.training.worker", "--serve", env=child_environment(devices, os.environ)
        )

    def send(self, task: Mapping[str, Any], place: TaskPlacement) -> None:
        """Start a task; the answer has its `state` (done, failed, interrupted) and `failure`.

        task: as JSON, see `task_to_json`; its file may be gone by the time the worker is ready.
        """
        self.write({"task": task, "place": asdict(place)})

    def ask(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Check whether these encoders can be used here; the answer has their `problems`."""
        self.write({"probe": list(requests)})


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
        elif code is not None and finished(self.assignment.task) is not None:
            self._state = JobState.DONE  # it was killed between its result and its answer
        elif code is not None:
            self._state = JobState.FAILED
            self.failure = crash(self.assignment, how_it_ended(code))
        if self._state is JobState.DONE and finished(self.assignment.task) is None:
            self._state = JobState.FAILED  # there is no valid result file
            self.failure = crash(self.assignment, "reported success but left no result")
        return self._state

    def stop(self) -> None:
        self._worker.signal(signal.SIGTERM)

    def kill(self) -> None:
        self._worker.kill()


def crash(assignment: Assignment, how: str) -> FoldFailure:
    """Describe the end of a worker that reported nothing, also in the fold's folder."""
    task = assignment.task
    left = left_failure(task)
    if left is not None:
        return left
    reason = f"the worker process {how} and left no message"
    detail = "\n".join(last_lines(assignment.log_file))
    return record_failure(task, failure_of(task, "crash", reason, assignment.log_file, detail))


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
        # Idle workers on some of the slots still hold memory there.
        names = {slot.name for slot in assignment.slots}
        for other in [one for one in self._workers if one != key and names & set(one.split("+"))]:
            self._workers.pop(other).close()
            self._jobs.pop(other, None)
        worker = self.worker(key, [slot.device for slot in assignment.slots])
        job = self._jobs[key] = ProcessJob(assignment, worker)
        write_fresh_task(assignment.task)
        worker.send(task_to_json(assignment.task), assignment.place)
        return job

    def worker(self, key: str, devices: Sequence[Device]) -> Worker:
        """Return the worker of a slot, or of several by their joint name; start it if necessary."""
        if key in self._workers and self._workers[key].exit_code() is not None:
            self._workers.pop(key).close()  # it was killed while it had nothing to do
        if key not in self._workers:
            self._workers[key] = Worker(devices)
        return self._workers[key]

    def close(self) -> None:
        """Leave no process behind."""
        for key, worker in self._workers.items():
            job = self._jobs.get(key)
            if job is not None and job.poll() is JobState.RUNNING:
                job.kill()
            worker.close()
        self._workers.clear()


def open_processes(execution: Execution, run: RunPaths, say: object) -> Resources:
    """Use the devices of this machine."""
    del run, say
    return local_resources(execution, ProcessExecutor(), StopOnSignal())
