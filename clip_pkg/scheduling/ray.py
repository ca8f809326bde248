"""Carries folds out on the nodes of a Ray cluster.

Each place is an actor (`ray_node`) with a GPU of its own that keeps a worker process for several
folds. Ray finds room for the actors; until it has, their folds are QUEUED, and the first queued
fold takes over whatever actor becomes free. Actors are never restarted by Ray: what was on a lost
node fails, and the loop sends it out again, so that its ledger and its retries know of it. Actors
belong to this process: Ray ends them when it is gone, and their workers end with them.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence

from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, JobState, prepare
from clip_pkg.scheduling.process import crash, failure_from, how_it_ended
from clip_pkg.scheduling.ray_connection import Connection, Layout
from clip_pkg.scheduling.ray_seat import Seat, SeatLost
from clip_pkg.study.identity import PACKAGE
from clip_pkg.study.tasks import FoldFailure, Task, finished

PLACE = "ray"  # and a number: the ids of places
SECONDS_BETWEEN_QUESTIONS = 0.5
SECONDS_IDLE = 5.0  # then an actor gives its GPU back to the cluster
SECONDS_TO_DIE = 15.0  # after a kill; then the node counts as lost
SECONDS_TO_LEAVE = 10.0
SECONDS_FOR_SHARED_FILES = 90.0  # until a file is seen on another node; network folders cache


def places(layout: Layout) -> tuple[Device, ...]:
    """The places of a cluster, as devices; which GPU a place is on is Ray's to say."""
    return tuple(Device(f"{PLACE}{number}", "", "", PLACE) for number in range(layout.places))


class RayJob:
    """One assignment, on a seat or waiting for one."""

    def __init__(self, executor: RayExecutor, assignment: Assignment, seat: Seat) -> None:
        self.assignment = assignment
        self.failure: FoldFailure | None = None
        self._executor = executor
        self._seat = seat
        self._state = JobState.QUEUED
        self._sent = False
        self._pid = 0
        self._next_question = 0.0
        self._killed: float | None = None
        self._done: float | None = None

    @property
    def process(self) -> str:
        """Process id and node of the worker; empty while there is none."""
        return f"pid {self._pid} on Ray node {self._seat.place}" if self._pid else ""

    def poll(self) -> JobState:
        """Return the state now, without waiting."""
        if not self._state.is_over:
            self._executor.release_idle()
            try:
                self._advance(time.monotonic())
            except SeatLost as lost:
                self._end(JobState.FAILED, crash(self.assignment, str(lost)))
        return self._state

    def stop(self) -> None:
        """Ask for a checkpoint and an end; a fold that has not begun is withdrawn."""
        if self._state.is_over:
            return
        if self._sent:
            self._seat.tell("signal", int(signal.SIGTERM))
        else:
            self._end(JobState.INTERRUPTED)

    def kill(self) -> None:
        """End the worker now, and the actor too if that does not help."""
        if self._state.is_over:
            return
        if self._sent:
            self._seat.tell("signal", int(signal.SIGKILL))
            self._killed = time.monotonic()
        else:
            self._end(JobState.FAILED, crash(self.assignment, "was withdrawn before it began"))

    def _advance(self, now: float) -> None:
        """Take the next step: find a seat, begin, look."""
        if self._killed is not None and now - self._killed > SECONDS_TO_DIE:
            raise SeatLost(f"on {self._seat.place} did not end when it was killed")
        if not self._sent:
            self._seat = self._executor.ready_seat(self._seat)
            if self._seat.is_ready() and not self._refused():
                self._seat.ask("begin", self.assignment)
                self._sent = True
        elif self._state is JobState.QUEUED:
            begun = self._seat.answer()
            if begun is not None and begun["problem"]:
                self._refuse(f"{begun['problem']}; all nodes must see the same folders")
            elif begun is not None:
                self._state, self._pid = JobState.RUNNING, begun["pid"]
        else:
            self._look(now)

    def _refused(self) -> bool:
        """Whether the node cannot give the numbers that this run wants."""
        node = self._seat.node
        assert node is not None, "asked of seats that are ready"
        if node["problem"]:
            self._refuse(f"the Ray node {node['ip']} cannot work: {node['problem']}")
        elif node["numerics"] != self.assignment.task.identity.numerics:
            self._refuse(
                f"{self._seat.place} has another version of clip_pkg than {PACKAGE}, so that its "
                "numbers could differ; use the same version on all nodes"
            )
        return self._state.is_over

    def _refuse(self, reason: str) -> None:
        task = self.assignment.task
        log = str(self.assignment.log_file)
        failure = FoldFailure(task.identity, task.fold, "user error", reason, "", log)
        self._end(JobState.FAILED, failure)

    def _look(self, now: float) -> None:
        """Ask how the worker is now and then, and take its end."""
        if self._done is not None:
            self._finish(now)
            return
        if self._seat.is_silent and now >= self._next_question:
            self._next_question = now + SECONDS_BETWEEN_QUESTIONS
            self._seat.ask("look")
        answer = self._seat.answer()
        if answer is None:
            return
        report, code = answer["report"], answer["exit_code"]
        if report is None and code is not None:
            self._end(JobState.FAILED, crash(self.assignment, how_it_ended(code)))
        elif report is not None and report["state"] == JobState.DONE.value:
            self._done = now
            self._finish(now)
        elif report is not None:
            failure = report["failure"]
            self._end(JobState(report["state"]), failure and failure_from(failure))

    def _finish(self, now: float) -> None:
        """End well as soon as the result file can be seen from here."""
        assert self._done is not None, "the worker said so"
        list(self.assignment.task.paths.root.iterdir())  # makes a network folder look again
        if finished(self.assignment.task) is not None:
            self._end(JobState.DONE)
        elif now - self._done > SECONDS_FOR_SHARED_FILES:
            how = "said that it was done but left no result that can be seen here"
            self._end(JobState.FAILED, crash(self.assignment, how))

    def _end(self, state: JobState, failure: FoldFailure | None = None) -> None:
        self._state, self.failure = state, failure
        if state is JobState.DONE:
            self._executor.give_back(self._seat)
        else:
            self._executor.dismiss(self._seat)


class RayExecutor:
    """Seats of a run on a cluster; as many folds as there are places, or more that wait."""

    def __init__(self, connection: Connection, layout: Layout) -> None:
        self.layout = layout
        self._connection = connection
        self._seats: list[Seat] = []
        self._idle: list[Seat] = []

    def submit(self, assignments: Sequence[Assignment]) -> list[RayJob]:
        return [self._start(one) for one in assignments]

    def _start(self, assignment: Assignment) -> RayJob:
        """Hand to an actor that is free, or let Ray find room for another one."""
        prepare(assignment.task)
        gpus = assignment.task.gpus
        seat = next((one for one in self._idle if one.gpus == gpus), None)
        if seat is None:
            seat = Seat(self._connection, self.layout, gpus)
            self._seats.append(seat)
        else:
            self._idle.remove(seat)
        return RayJob(self, assignment, seat)

    def ready_seat(self, seat: Seat) -> Seat:
        """Return the seat, or an idle one that has room already in exchange for it."""
        if not seat.is_ready():
            for other in self._idle:
                if other.gpus == seat.gpus and other.node is not None:
                    self._idle.remove(other)
                    self.give_back(seat)
                    return other
        return seat

    def give_back(self, seat: Seat) -> None:
        """Keep a seat for the next task."""
        seat.idle_since = time.monotonic()
        self._idle.append(seat)

    def dismiss(self, seat: Seat) -> None:
        """End a seat: the next task gets a fresh process, where Ray finds room."""
        self._seats.remove(seat)
        seat.kill()

    def release_idle(self) -> None:
        """Let others have the GPUs of seats for which there is no task any more."""
        for seat in list(self._idle):
            if time.monotonic() - seat.idle_since > SECONDS_IDLE:
                self._idle.remove(seat)
                self.dismiss(seat)

    def jobs_on(self, device: Device, task: Task) -> int:
        """How many folds its place stands for by now: nodes that joined add to all places."""
        del task
        now, then = self.layout.capacity(self._connection.nodes()), self.layout.places
        number = int(device.id.removeprefix(PLACE))
        return self.layout.jobs * ((now + then - 1 - number) // then)

    def close(self) -> None:
        """Leave no process behind, and the cluster as it was."""
        # Where the connection broke, Ray ends the actors, and these their workers.
        with contextlib.suppress(ConnectionError):
            closing = [seat.tell("close") for seat in self._seats if seat.node is not None]
            if closing:
                ray = self._connection.ray
                ray.wait(closing, num_returns=len(closing), timeout=SECONDS_TO_LEAVE)
            for seat in self._seats:
                seat.kill()
        self._seats.clear()
        self._idle.clear()
        self._connection.close()
