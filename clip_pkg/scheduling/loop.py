"""Assigns the next task to each free slot until no task is left.

Executors run tasks, the ledger records events, an observer shows them. The loop does not depend on
processes, clusters or fold files, and takes the time from a `Clock`, so that it can be simulated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from clip_pkg.base.cores import usable_cores
from clip_pkg.scheduling.devices import Device, DeviceGate, Verdict
from clip_pkg.scheduling.job import Assignment, Executor, Job, JobState, Slot, SlotPool
from clip_pkg.scheduling.ledger import Ledger
from clip_pkg.scheduling.queue import TaskQueue
from clip_pkg.scheduling.retries import FailurePolicy
from clip_pkg.study.tasks import FailureKind, FoldFailure, PretrainTask, Task, failure_of

SECONDS_BETWEEN_POLLS = 0.05
SECONDS_BETWEEN_HEARTBEATS = 30.0
LOOKS_PER_STALL_TIMEOUT = 20
FAILURES_OF_A_BAD_DEVICE = 3  # in a row, of different folds
# Failures that say nothing about the device.
INNOCENT: frozenset[FailureKind] = frozenset(
    {"diverged", "user error", "disk full", "damaged file"}
)


class Clock(Protocol):
    """Real or simulated time."""

    def now(self) -> float:
        """Seconds since an arbitrary moment; never decreases."""
        ...

    def wait(self) -> None:
        """Wait until the next poll."""
        ...


class RealTime:
    """Wall-clock time."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self) -> None:
        time.sleep(SECONDS_BETWEEN_POLLS)


class Observer:
    """Receives the events of a run; this base class shows nothing."""

    def started(self, assignment: Assignment) -> None:
        """A task was started or submitted to a cluster."""

    def ended(
        self, assignment: Assignment, state: JobState, failure: FoldFailure | None = None
    ) -> None:
        """A task has ended for good. `failure` is given if `state` is FAILED."""

    def retrying(self, assignment: Assignment, failure: FoldFailure, reason: str) -> None:
        """An attempt failed; another one follows."""

    def set_aside(self, device: Device, reason: str) -> None:
        """No more tasks are started on a device."""

    def tick(self, running: Sequence[Assignment]) -> None:
        """Called after every poll."""


@dataclass
class Outcome:
    """The tasks of a run by their final state.

    stranded: not started because too few usable devices were left. blocked: not started because
    the pre-training they depend on failed.
    """

    by_state: dict[JobState, list[Task]] = field(default_factory=dict)
    stranded: list[Task] = field(default_factory=list)
    blocked: list[Task] = field(default_factory=list)

    def __getitem__(self, state: JobState) -> list[Task]:
        return self.by_state.get(state, [])


@dataclass
class _Running:
    assignment: Assignment
    job: Job
    started: float
    state: JobState = JobState.QUEUED
    hung: FoldFailure | None = None
    progress: float | None = None  # as its node stated it when the launcher looked last
    moved: float = 0.0
    looked: float = 0.0


@dataclass
class Loop:
    """The scheduling loop of one run.

    log_file: log of a task on a slot. last_progress: time of a task's last progress by the
    clock of its node; None if it has not started. gate: checks devices; None accepts all. restore:
    called before each start, writes files that the task needs and that were lost or damaged.
    slots_for_task: number of slots that a task takes. expected_seconds: what another task like a
    finished one takes, given the seconds of its last attempt. jobs_that_fit: how many folds like a
    finished one fit on a device, for `--jobs-per-gpu auto`; None otherwise.
    """

    pool: SlotPool
    queue: TaskQueue
    executor: Executor
    ledger: Ledger
    observer: Observer
    log_file: Callable[[Task, Slot], Path]
    last_progress: Callable[[Task], float | None]
    stop_requested: Callable[[], bool]
    gate: DeviceGate | None = None
    restore: Callable[[Task], None] = lambda task: None
    policy: FailurePolicy = field(default_factory=FailurePolicy)
    fail_fast: bool = False
    stall_timeout: float = math.inf
    slots_for_task: Callable[[Task], int] = lambda task: task.gpus
    expected_seconds: Callable[[Task, float], float] = lambda task, seconds: seconds
    jobs_that_fit: Callable[[Device, Task], int] | None = None
    cores: int = field(default_factory=usable_cores)
    clock: Clock = field(default_factory=RealTime)

    def __post_init__(self) -> None:
        self._running: list[_Running] = []
        self._delayed: list[tuple[float, Task]] = []
        self._attempts: dict[tuple[Path, int], int] = {}
        self._restorations: dict[tuple[Path, int], int] = {}  # because of damaged files
        self._strikes: dict[str, int] = {}
        self._outcome = Outcome()
        self._stopping = False
        self._beat = self.clock.now()

    def run(self) -> Outcome:
        """Run every task of the queue; a failure stops no other unless `fail_fast` is set.

        When a stop is requested, running tasks write a checkpoint and nothing new starts.
        """
        while self.queue or self._running or self._delayed:
            if self.stop_requested() and not self._stopping:
                self._stop()
            for running in list(self._running):
                self._poll(running)
            now = self.clock.now()
            for due, task in list(self._delayed):
                if now >= due:
                    self._delayed.remove((due, task))
                    self.queue.add(task)
            self._start_tasks()
            if self.clock.now() - self._beat >= SECONDS_BETWEEN_HEARTBEATS:
                self._beat = self.clock.now()
                self.ledger.append("heartbeat", running=len(self._running), waiting=len(self.queue))
            self.observer.tick(
                [one.assignment for one in self._running if one.state is JobState.RUNNING]
            )
            if not self._running and self.queue and self.pool.size == 0:
                for task in self.queue.clear():  # no device is usable: left for the next run
                    self._strand(task)
            if self._running or self._delayed or self.queue:
                self.clock.wait()
        return self._outcome

    # --- starting

    def _start_tasks(self) -> None:
        """Lease free slots to the next tasks and submit these."""
        assignments: list[Assignment] = []
        for slot in self.pool.free():
            task = self.queue.peek(slot)
            if task is None or slot not in self.pool.free() or not self._passes(slot):
                continue
            wanted = self.slots_for_task(task)
            if wanted > self.pool.usable_devices:
                self.queue.take(slot)
                self._strand(task)
                continue
            slots = [slot]
            for other in self.pool.free():
                if len(slots) == wanted:
                    break
                if other.device not in [one.device for one in slots] and self._passes(other):
                    slots.append(other)
            if len(slots) < wanted:
                break  # a task for several GPUs reserves the free ones until there are enough
            task = self.queue.take(slot) or task
            self.pool.lease(slots)
            key = (task.run_dir, task.fold)
            attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
            threads = max(1, self.cores * len(slots) // self.pool.size)
            log = self.log_file(task, slot)
            log.parent.mkdir(parents=True, exist_ok=True)
            self.restore(task)
            assignments.append(Assignment(task, tuple(slots), log, threads, attempt))
        jobs = self.executor.submit(assignments) if assignments else []
        for one, job in zip(assignments, jobs, strict=True):
            running = _Running(one, job, self.clock.now())
            self._running.append(running)
            self.observer.started(one)
            self._record("queued", running)

    def _passes(self, slot: Slot) -> bool:
        """Whether the device can be used; one that cannot is set aside."""
        if self.gate is None or not self.pool.is_idle(slot.device):
            return True  # a device that this run uses is not checked again
        verdict, reason = self.gate.check(slot.device, self.clock.now())
        if verdict is Verdict.UNUSABLE:
            self._put_aside(slot.device, reason)
        return verdict is Verdict.READY

    # --- watching

    def _poll(self, running: _Running) -> None:
        state = running.job.poll()
        if state is JobState.RUNNING and running.state is JobState.QUEUED:
            running.started = running.moved = running.looked = self.clock.now()
            self._record("running", running)
        elif state is JobState.QUEUED and running.state is JobState.RUNNING:
            self._record("queued", running)  # its cluster has put it back into the queue
        running.state = state
        if state is JobState.RUNNING and running.hung is None:
            still = self.clock.now() - self._moved(running)
            if still >= self.stall_timeout:
                task = running.assignment.task
                reason = f"no step was finished for {still:.0f} s (--stall-timeout)"
                running.hung = failure_of(task, "hung", reason, running.assignment.log_file)
                running.job.kill()
        if state.is_over:
            self._running.remove(running)
            self._end(running, state)
            self.pool.release(running.assignment.slots)

    def _moved(self, running: _Running) -> float:
        """When a running task was last seen to progress, by the launcher's clock.

        The time in its progress file is that of its node, whose clock may be minutes off.
        """
        now = self.clock.now()
        if now - running.looked >= self.stall_timeout / LOOKS_PER_STALL_TIMEOUT:
            running.looked = now
            latest = self.last_progress(running.assignment.task)
            if latest != running.progress:
                running.progress, running.moved = latest, now
        return running.moved

    def _end(self, running: _Running, state: JobState) -> None:
        task, device = running.assignment.task, running.assignment.device
        failure = None
        if state is JobState.DONE:
            seconds = self.clock.now() - running.started
            self.queue.learn(task, self.expected_seconds(task, seconds))
            self._strikes.pop(device.id, None)
            self._record("done", running, seconds=round(seconds, 3))
            if self.jobs_that_fit is not None:
                self.pool.grow(device, self.jobs_that_fit(device, task))
        elif state is JobState.INTERRUPTED or (self._stopping and running.hung is None):
            state = JobState.INTERRUPTED
            self._record("interrupted", running)
        else:
            failure = running.hung or running.job.failure
            assert failure is not None, "a failed job has a failure"
            if self._retries(running, failure):
                return
        self._outcome.by_state.setdefault(state, []).append(task)
        if isinstance(task, PretrainTask):
            for dependent in self.queue.withdraw(task):
                if state is JobState.DONE:
                    self.queue.add(dependent)
                    continue
                reason = f"{task.display_name} is not done"
                names = {"config": dependent.name, "fold": dependent.fold}
                self.ledger.append("cancelled", **names, reason=reason)
                self._outcome.blocked.append(dependent)
        self.observer.ended(running.assignment, state, failure)

    def _retries(self, running: _Running, failure: FoldFailure) -> bool:
        """Record a failed attempt; returns whether another one follows."""
        assignment = running.assignment
        key = (assignment.task.run_dir, assignment.task.fold)
        restorations = self._restorations.get(key, 0)
        counted = assignment.attempt - restorations
        retry = self.policy.decide(assignment.task, failure, counted, restorations)
        if failure.kind == "damaged file":
            self._restorations[key] = restorations + 1
        event = "diverged" if failure.kind == "diverged" else "failed"
        self._record(event, running, kind=failure.kind, reason=failure.reason, retry=bool(retry))
        # A GPU on which several folds in a row fail is set aside, if there are others. A place in a
        # cluster is on another GPU each time.
        device = assignment.device
        if not device.cluster and failure.kind not in INNOCENT:
            count = self._strikes[device.id] = self._strikes.get(device.id, 0) + 1
            if count >= FAILURES_OF_A_BAD_DEVICE and self.pool.usable_devices > 1:
                reason = f"{count} attempts in a row failed there: {failure.reason}"
                self._put_aside(device, reason)
        if retry is not None:
            self.observer.retrying(assignment, failure, retry.reason)
            self._delayed.append((self.clock.now() + retry.delay, retry.task))
        elif self.fail_fast:
            self._stop()
        return retry is not None

    def _put_aside(self, device: Device, reason: str) -> None:
        self.pool.put_aside(device, reason)
        self.queue.unlist(device.id)
        self.ledger.append("set aside", device=device.id, reason=reason)
        self.observer.set_aside(device, reason)

    # --- ending

    def _stop(self) -> None:
        self._stopping = True
        for task in (*self.queue.clear(), *(task for _, task in self._delayed)):
            self.ledger.append("cancelled", config=task.name, fold=task.fold)
        self._delayed.clear()
        for running in self._running:
            running.job.stop()

    def _strand(self, task: Task) -> None:
        self.ledger.append("cancelled", config=task.name, fold=task.fold)
        self._outcome.stranded.append(task)

    def _record(self, event: str, running: _Running, **details: object) -> None:
        assignment = running.assignment
        self.ledger.append(
            event,
            config=assignment.task.name,
            fold=assignment.task.fold,
            attempt=assignment.attempt,
            device=assignment.place.device_id,
            process=running.job.process,
            log_file=str(assignment.log_file),
            **details,
        )
