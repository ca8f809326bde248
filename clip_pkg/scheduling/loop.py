"""Gives each slot the next task as soon as it is free, until nothing is left.

The loop knows neither processes nor clusters nor files of a fold: executors carry tasks out, the
ledger remembers, observers show. Time comes in through `Clock`, so that the same code runs
simulations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from clip_pkg.scheduling.devices import Device, usable_cores
from clip_pkg.scheduling.health import DeviceGate, Verdict
from clip_pkg.scheduling.job import Assignment, Executor, Job, JobState, Slot, SlotPool
from clip_pkg.scheduling.ledger import Record
from clip_pkg.scheduling.queue import TaskQueue
from clip_pkg.study.tasks import FailureKind, FoldFailure, FoldTask

# The same numbers would come out again.
HOPELESS: frozenset[FailureKind] = frozenset({"diverged", "user error"})
SMALLEST_MICRO_BATCH = 2  # BatchNorm has no statistics of one image
SECONDS_FOR_DISK_SPACE = 30.0  # before the second attempt; doubled before each further one


@dataclass(frozen=True)
class Retry:
    """Another attempt: of `task`, not before `delay` seconds; `reason` is for people."""

    task: FoldTask
    delay: float
    reason: str


@dataclass(frozen=True)
class FailurePolicy:
    """Allows `retries` attempts beyond the first.

    After running out of memory the next attempt computes each batch in two halves. The batch that
    the loss sees stays whole, so that negatives and the effective batch size are what the config
    says; what can differ is told in the fold's notices.
    """

    retries: int = 2

    def decide(self, task: FoldTask, failure: FoldFailure, attempt: int) -> Retry | None:
        """Return what to do after attempt number `attempt`; None gives up."""
        if attempt > self.retries or failure.kind in HOPELESS:
            return None
        count = f"attempt {attempt + 1} of {self.retries + 1}"
        if failure.kind == "out of memory":
            whole = task.images_at_once
            half = (whole + 1) // 2
            if half < SMALLEST_MICRO_BATCH or half == whole:
                return None
            smaller = replace(task, micro_batch_size=half)
            return Retry(smaller, 0.0, f"{count} computes its batches in parts of {half} images")
        if failure.kind == "disk full":
            delay = SECONDS_FOR_DISK_SPACE * 2 ** (attempt - 1)
            return Retry(task, delay, f"{count} follows in {delay:.0f} s; free some space")
        return Retry(task, 0.0, f"{count} follows in a fresh process")


SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_BETWEEN_HEARTBEATS = 30.0
FAILURES_OF_A_BAD_DEVICE = 3  # in a row, of different folds


class Clock(Protocol):
    """Time, real or simulated."""

    def now(self) -> float:
        """Seconds since whenever."""
        ...

    def wait(self) -> None:
        """Let a little time pass."""
        ...


class RealTime:
    """The time of the clock on the wall."""

    def now(self) -> float:
        """Seconds since whenever, never backwards."""
        return time.monotonic()

    def wait(self) -> None:
        """Sleep shortly."""
        time.sleep(SECONDS_BETWEEN_LOOKS)


class Observer(Protocol):
    """Who wants to know: the terminal, the summaries."""

    def started(self, assignment: Assignment) -> None:
        """A task has begun, or was handed to a cluster."""
        ...

    def ended(
        self, assignment: Assignment, state: JobState, failure: FoldFailure | None = None
    ) -> None:
        """A task has ended for good; FAILED comes with its failure."""
        ...

    def retrying(self, assignment: Assignment, failure: FoldFailure, reason: str) -> None:
        """An attempt failed and another one follows."""
        ...

    def set_aside(self, device: Device, reason: str) -> None:
        """A device gets no more tasks."""
        ...

    def tick(self, running: Sequence[Assignment]) -> None:
        """Time has passed."""
        ...


@dataclass
class Outcome:
    """How the tasks ended, by state.

    stranded: too few devices were left that work. blocked: start from a pre-training that failed.
    """

    by_state: dict[JobState, list[FoldTask]] = field(default_factory=dict)
    stranded: list[FoldTask] = field(default_factory=list)
    blocked: list[FoldTask] = field(default_factory=list)

    def add(self, task: FoldTask, state: JobState) -> None:
        """Note the end of a task."""
        self.by_state.setdefault(state, []).append(task)

    def __getitem__(self, state: JobState) -> list[FoldTask]:
        return self.by_state.get(state, [])


@dataclass
class _Running:
    job: Job
    started: float
    state: JobState
    hung: FoldFailure | None = None

    @property
    def assignment(self) -> Assignment:
        return self.job.assignment


@dataclass
class Loop:
    """The scheduling loop of one run.

    log_file: names the log of a task on its slots. signs_of_life: when the task last got on, in
    seconds since the epoch; None if it has not begun. slots_for_task: as many as it needs GPUs,
    unless a slot is a job that gets as many as it needs. jobs_that_fit: how many folds like the one
    that finished a device holds, for `--jobs-per-gpu auto`; None where that was not asked.
    """

    pool: SlotPool
    queue: TaskQueue
    executor: Executor
    ledger: Record
    observer: Observer
    log_file: Callable[[FoldTask, Slot], Path]
    signs_of_life: Callable[[FoldTask], float | None]
    stop_requested: Callable[[], bool]
    gate: DeviceGate
    policy: FailurePolicy = field(default_factory=FailurePolicy)
    fail_fast: bool = False
    stall_timeout: float = math.inf
    slots_for_task: Callable[[FoldTask], int] = lambda task: task.gpus
    jobs_that_fit: Callable[[Device, FoldTask], int] | None = None
    cores: int = field(default_factory=usable_cores)
    clock: Clock = field(default_factory=RealTime)

    def __post_init__(self) -> None:
        self._running: list[_Running] = []
        self._delayed: list[tuple[float, FoldTask]] = []
        self._attempts: dict[tuple[str, int], int] = {}
        self._strikes: dict[str, int] = {}
        self._outcome = Outcome()
        self._stopping = False
        self._beat = self.clock.now()

    def run(self) -> Outcome:
        """Carry out every task of the queue; a failure stops no other unless `fail_fast`.

        When a stop is requested, running tasks are asked to checkpoint and nothing new starts.
        """
        while self.queue or self._running or self._delayed:
            if self.stop_requested() and not self._stopping:
                self._stop()
            for running in list(self._running):
                self._look_at(running)
            self._bring_back()
            with self.executor.batch():
                self._start_what_fits()
            self._heartbeat()
            self.observer.tick(
                [one.assignment for one in self._running if one.state is JobState.RUNNING]
            )
            if not self._running and self.queue and self.pool.size == 0:
                self._give_up()
            if self._running or self._delayed or self.queue:
                self.clock.wait()
        return self._outcome

    # --- starting

    def _start_what_fits(self) -> None:
        for slot in self.pool.free():
            task = self.queue.peek(slot)
            if task is None or slot not in self.pool.free() or not self._passes(slot):
                continue
            if self.slots_for_task(task) > self.pool.usable_devices:
                self.queue.take(slot)
                self._strand(task)
                continue
            slots = self._slots_for(task, slot)
            if slots is None:
                # A task for several GPUs holds those that are free until there are enough.
                return
            self._start(self.queue.take(slot) or task, slots)

    def _slots_for(self, task: FoldTask, first: Slot) -> tuple[Slot, ...] | None:
        """As many free slots on different devices as the task needs, `first` among them."""
        chosen, wanted = [first], self.slots_for_task(task)
        for slot in self.pool.free():
            if len(chosen) == wanted:
                break
            if slot.device not in [one.device for one in chosen] and self._passes(slot):
                chosen.append(slot)
        return tuple(chosen) if len(chosen) == wanted else None

    def _passes(self, slot: Slot) -> bool:
        """Whether the device can be used; one that cannot is set aside."""
        if not self.pool.is_idle(slot.device):
            return True  # what is on it is ours
        verdict, reason = self.gate.check(slot.device, self.clock.now())
        if verdict is Verdict.UNUSABLE:
            self._put_aside(slot.device, reason)
        return verdict is Verdict.READY

    def _start(self, task: FoldTask, slots: tuple[Slot, ...]) -> None:
        key = (task.run_dir, task.fold)
        attempt = self._attempts[key] = self._attempts.get(key, 0) + 1
        log = self.log_file(task, slots[0])
        log.parent.mkdir(parents=True, exist_ok=True)
        self.pool.lease(slots)
        threads = max(1, self.cores * len(slots) // self.pool.size)
        job = self.executor.submit(Assignment(task, slots, log, threads, attempt))
        running = _Running(job, self.clock.now(), JobState.QUEUED)
        self._running.append(running)
        self.observer.started(job.assignment)
        self._record("queued", job)

    # --- watching

    def _look_at(self, running: _Running) -> None:
        state = running.job.poll()
        if state is JobState.RUNNING and running.state is JobState.QUEUED:
            running.started = self.clock.now()
            self._record("running", running.job)
        elif state is JobState.QUEUED and running.state is JobState.RUNNING:
            self._record("queued", running.job)  # its cluster lets it wait again
        running.state = state
        if state is JobState.RUNNING and running.hung is None:
            self._check_progress(running)
        if state.is_over:
            self._running.remove(running)
            self._end(running, state)
            self.pool.release(running.assignment.slots)

    def _check_progress(self, running: _Running) -> None:
        """Kill what has not moved for too long."""
        still = self.clock.now() - running.started
        if still < self.stall_timeout:
            return
        alive = self.signs_of_life(running.assignment.task)
        if alive is not None:
            still = min(still, time.time() - alive)
        if still >= self.stall_timeout:
            task = running.assignment.task
            running.hung = FoldFailure(
                identity=task.identity,
                fold=task.fold,
                kind="hung",
                reason=f"no step was finished for {still:.0f} s (--stall-timeout)",
                log_file=str(running.assignment.log_file),
            )
            running.job.kill()

    def _end(self, running: _Running, state: JobState) -> None:
        assignment, device = running.assignment, running.assignment.device
        seconds = self.clock.now() - running.started
        if state is JobState.DONE:
            self.queue.learn(assignment.task, seconds)
            self._strikes.pop(device.id, None)
            self._record("done", running.job, seconds=round(seconds, 3))
            if self.jobs_that_fit is not None:
                self.pool.grow(device, self.jobs_that_fit(device, assignment.task))
        elif state is JobState.INTERRUPTED or (self._stopping and running.hung is None):
            state = JobState.INTERRUPTED
            self._record("interrupted", running.job)
        elif self._failed(running):
            return
        failure = self._why(running) if state is JobState.FAILED else None
        self._outcome.add(assignment.task, state)
        if assignment.task.is_pretraining:
            self._let_go(assignment.task, state)
        self.observer.ended(assignment, state, failure)

    def _let_go(self, pretraining: FoldTask, state: JobState) -> None:
        """Let the folds that waited for a pre-training begin, or give them up."""
        if state is JobState.DONE:
            self.queue.release(pretraining)
            return
        for task in self.queue.withdraw(pretraining):
            self.ledger.append(
                "cancelled",
                config=task.name,
                fold=task.fold,
                reason=f"{pretraining.label} is not done",
            )
            self._outcome.blocked.append(task)

    def _failed(self, running: _Running) -> bool:
        """Deal with a failed attempt; returns whether another one follows."""
        assignment, job = running.assignment, running.job
        failure = self._why(running)
        retry = self.policy.decide(assignment.task, failure, assignment.attempt)
        event = "diverged" if failure.kind == "diverged" else "failed"
        self._record(event, job, kind=failure.kind, reason=failure.reason, retry=bool(retry))
        self._strike(assignment.device, failure)
        if retry is not None:
            self.observer.retrying(assignment, failure, retry.reason)
            self._delayed.append((self.clock.now() + retry.delay, retry.task))
            return True
        if self.fail_fast:
            self._stop()
        return False

    def _why(self, running: _Running) -> FoldFailure:
        failure = running.hung or running.job.failure
        assert failure is not None, "a failed job says why"
        return failure

    def _strike(self, device: Device, failure: FoldFailure) -> None:
        """Set a GPU aside on which one fold after another fails, while others work."""
        if device.cluster or failure.kind in ("diverged", "user error", "disk full"):
            return  # a place in a cluster is on another GPU each time
        self._strikes[device.id] = self._strikes.get(device.id, 0) + 1
        others = [one for one in self.pool.devices if one.id not in self.pool.set_aside]
        if self._strikes[device.id] >= FAILURES_OF_A_BAD_DEVICE and len(others) > 1:
            count = self._strikes[device.id]
            self._put_aside(device, f"{count} attempts in a row failed there: {failure.reason}")

    def _put_aside(self, device: Device, reason: str) -> None:
        self.pool.put_aside(device, reason)
        self.queue.unlist(device.id)
        self.ledger.append("set aside", device=device.id, reason=reason)
        self.observer.set_aside(device, reason)

    # --- ending

    def _stop(self) -> None:
        self._stopping = True
        waiting = [*self.queue.clear(), *(task for _, task in self._delayed)]
        self._delayed.clear()
        for task in waiting:
            self.ledger.append("cancelled", config=task.name, fold=task.fold)
        for running in self._running:
            running.job.stop()

    def _give_up(self) -> None:
        """Without a device that works the rest waits for the next run."""
        for task in self.queue.clear():
            self._strand(task)

    def _strand(self, task: FoldTask) -> None:
        self.ledger.append("cancelled", config=task.name, fold=task.fold)
        self._outcome.stranded.append(task)

    def _bring_back(self) -> None:
        now = self.clock.now()
        for due, task in list(self._delayed):
            if now >= due:
                self._delayed.remove((due, task))
                self.queue.add(task)

    def _heartbeat(self) -> None:
        if self.clock.now() - self._beat >= SECONDS_BETWEEN_HEARTBEATS:
            self._beat = self.clock.now()
            self.ledger.append("heartbeat", running=len(self._running), waiting=len(self.queue))

    def _record(self, event: str, job: Job, **details: object) -> None:
        assignment = job.assignment
        self.ledger.append(
            event,
            config=assignment.task.name,
            fold=assignment.task.fold,
            attempt=assignment.attempt,
            device=assignment.place["device_id"],
            process=job.process,
            log_file=str(assignment.log_file),
            **details,
        )
