"""The scheduling loop with simulated folds, to predict how long a run takes."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, JobState, SlotPool
from clip_pkg.scheduling.ledger import Ledger
from clip_pkg.scheduling.loop import Loop, Observer
from clip_pkg.scheduling.queue import Estimates, TaskQueue, pins
from clip_pkg.study.tasks import FoldFailure, Task


@dataclass(frozen=True)
class Simulation:
    """Result of a simulation.

    makespan: seconds from the first start to the last end. work: sum of all durations times their
    GPUs. lower_bound: bound on the makespan of any order, max(work / slots, longest). idle: ids of
    the devices that got no task.
    """

    makespan: float
    work: float
    lower_bound: float
    slots: int
    idle: Sequence[str] = ()

    @property
    def utilisation(self) -> float:
        """Share of the makespan in which the slots were busy, 0 to 1."""
        return self.work / (self.slots * self.makespan) if self.makespan else 1.0


@dataclass
class SimulatedTime:
    """A clock that jumps from one end of a job to the next."""

    _now: float = 0.0
    _ends: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self._now

    def expect(self, moment: float) -> None:
        """Add a moment at which a job ends."""
        heapq.heappush(self._ends, moment)

    def wait(self) -> None:
        """Jump to the next moment at which a job ends."""
        while self._ends and self._ends[0] <= self._now:
            heapq.heappop(self._ends)
        if self._ends:
            self._now = self._ends[0]


@dataclass(frozen=True)
class SimulatedJob:
    """Runs until `end`."""

    end: float
    clock: SimulatedTime
    process: str = ""
    failure: FoldFailure | None = None

    def poll(self) -> JobState:
        return JobState.DONE if self.clock.now() >= self.end else JobState.RUNNING

    def stop(self) -> None:
        """A simulation is never stopped."""

    def kill(self) -> None:
        """A simulated fold never hangs."""


@dataclass(frozen=True)
class SimulatedExecutor:
    """Lets each task take its duration."""

    clock: SimulatedTime
    duration: Callable[[Task], float]
    used: set[str] = field(default_factory=set)

    def submit(self, assignments: Sequence[Assignment]) -> list[SimulatedJob]:
        self.used.update(slot.device.id for one in assignments for slot in one.slots)
        ends = [self.clock.now() + self.duration(one.task) for one in assignments]
        for end in ends:
            self.clock.expect(end)
        return [SimulatedJob(end, self.clock) for end in ends]

    def close(self) -> None:
        """There is no process to end."""


def simulate(
    tasks: Sequence[Task],
    devices: Sequence[Device],
    duration: Callable[[Task], float],
    *,
    jobs_per_device: int = 1,
    estimates: Estimates | None = None,
    listed: Sequence[str] | None = None,
) -> Simulation:
    """Schedule `tasks` as a run would, each taking `duration(task)` seconds.

    estimates: what the scheduler knows at the start. It learns a duration only when the task ends.
    listed: devices that a config may choose; None: those of `pins`.
    """
    clock = SimulatedTime()
    log = Path("simulated.log")
    pool = SlotPool(devices, jobs_per_device)
    executor = SimulatedExecutor(clock, duration)
    Loop(
        pool=pool,
        queue=TaskQueue(
            tasks,
            Estimates() if estimates is None else estimates,
            pins(tasks, devices) if listed is None else listed,
        ),
        executor=executor,
        ledger=Ledger(None),
        observer=Observer(),
        log_file=lambda task, slot: log,
        last_progress=lambda task: None,
        stop_requested=lambda: False,
        clock=clock,
    ).run()
    durations = [duration(task) for task in tasks]
    work = sum(seconds * task.gpus for seconds, task in zip(durations, tasks, strict=True))
    bound = max([work / pool.size, *durations], default=0.0)
    idle = [one.id for one in devices if one.id not in executor.used]
    return Simulation(clock.now(), work, bound, pool.size, idle)


def numbered_gpus(count: int) -> tuple[Device, ...]:
    """Imaginary GPUs for simulations."""
    return tuple(Device(str(number), f"GPU-{number}", "simulated") for number in range(count))
