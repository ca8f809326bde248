"""The real scheduling loop against durations instead of folds."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.health import OpenGate
from clip_pkg.scheduling.job import Assignment, JobState, SlotPool
from clip_pkg.scheduling.ledger import Nowhere
from clip_pkg.scheduling.loop import Loop
from clip_pkg.scheduling.queue import Estimates, TaskQueue
from clip_pkg.study.tasks import FoldFailure, FoldTask


@dataclass(frozen=True)
class Simulation:
    """What came out.

    makespan: seconds from the first start to the last end. work: sum of all durations times their
    GPUs. lower_bound: what no order could beat, max(work / slots, longest).
    """

    makespan: float
    work: float
    lower_bound: float
    slots: int

    @property
    def utilisation(self) -> float:
        """Share of the slots' time in which they worked."""
        return self.work / (self.slots * self.makespan) if self.makespan else 1.0


@dataclass
class SimulatedTime:
    """A clock that jumps from one end of a job to the next."""

    _now: float = 0.0
    _ends: list[float] = field(default_factory=list)

    def now(self) -> float:
        """Seconds since the start."""
        return self._now

    def expect(self, moment: float) -> None:
        """Something will happen then."""
        heapq.heappush(self._ends, moment)

    def wait(self) -> None:
        """Go on to the next moment at which something happens."""
        while self._ends and self._ends[0] <= self._now:
            heapq.heappop(self._ends)
        if self._ends:
            self._now = self._ends[0]


@dataclass(frozen=True)
class SimulatedJob:
    """Runs until `end`."""

    assignment: Assignment
    end: float
    clock: SimulatedTime
    process: str = ""
    failure: FoldFailure | None = None

    def poll(self) -> JobState:
        """Whether its time is over."""
        return JobState.DONE if self.clock.now() >= self.end else JobState.RUNNING

    def stop(self) -> None:
        """Nobody stops a simulation."""

    def kill(self) -> None:
        """Nobody kills in a simulation."""


@dataclass(frozen=True)
class SimulatedExecutor:
    """Lets each task take its duration."""

    clock: SimulatedTime
    duration: Callable[[FoldTask], float]

    def submit(self, assignment: Assignment) -> SimulatedJob:
        """Begin now."""
        end = self.clock.now() + self.duration(assignment.task)
        self.clock.expect(end)
        return SimulatedJob(assignment, end, self.clock)

    def batch(self) -> AbstractContextManager[None]:
        """Nothing travels."""
        return nullcontext()

    def close(self) -> None:
        """Nothing is left behind."""


class Silence:
    """An observer that shows nothing."""

    def started(self, assignment: Assignment) -> None:
        """See `Observer`."""

    def ended(
        self, assignment: Assignment, state: JobState, failure: FoldFailure | None = None
    ) -> None:
        """See `Observer`."""

    def retrying(self, assignment: Assignment, failure: FoldFailure, reason: str) -> None:
        """See `Observer`."""

    def set_aside(self, device: Device, reason: str) -> None:
        """See `Observer`."""

    def tick(self, running: Sequence[Assignment]) -> None:
        """See `Observer`."""


def simulate(
    tasks: Sequence[FoldTask],
    devices: Sequence[Device],
    duration: Callable[[FoldTask], float],
    *,
    jobs_per_device: int = 1,
    estimates: Estimates | None = None,
) -> Simulation:
    """Schedule `tasks` as a run would, each taking `duration(task)` seconds.

    `estimates` is what the scheduler believes beforehand; it learns while time passes, and never
    sees a duration before its end.
    """
    clock = SimulatedTime()
    log = Path("simulated.log")
    pool = SlotPool(devices, jobs_per_device)
    Loop(
        pool=pool,
        queue=TaskQueue(
            tasks,
            Estimates() if estimates is None else estimates,
            [device.id for device in devices],
        ),
        executor=SimulatedExecutor(clock, duration),
        ledger=Nowhere(),
        observer=Silence(),
        log_file=lambda task, slot: log,
        signs_of_life=lambda task: None,
        stop_requested=lambda: False,
        gate=OpenGate(),
        clock=clock,
    ).run()
    durations = [duration(task) for task in tasks]
    work = sum(seconds * task.gpus for seconds, task in zip(durations, tasks, strict=True))
    bound = max([work / pool.size, *durations], default=0.0)
    return Simulation(clock.now(), work, bound, pool.size)


def numbered_gpus(count: int) -> tuple[Device, ...]:
    """GPUs that do not exist, for simulations."""
    return tuple(Device(str(number), f"GPU-{number}", "simulated") for number in range(count))
