"""Talks to Slurm about the jobs of one output folder: squeue seldom, scancel when there is need.

Only the controller is asked, so that no accounting database is needed. It forgets a job some
minutes after its end (MinJobAge).
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clip_pkg.study.identity import digest

STOP_SIGNAL = signal.SIGINT  # not SIGTERM, which Slurm itself sends in several cases
SHORTEST_PAUSE, LONGEST_PAUSE = 2.0, 30.0  # seconds between two questions
SECONDS_TO_ANSWER = 60.0
SECONDS_OF_SILENCE = 120.0  # before people are told that Slurm does not answer
SECONDS_TO_EMPTY = 90.0  # Slurm gives a job half a minute by default (KillWait)
SECONDS_BETWEEN_CANCELS = 10.0
SECONDS_BETWEEN_CHECKS = 0.5  # while people wait for the end
WAITING = frozenset(
    {
        "CONFIGURING",
        "PENDING",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESV_DEL_HOLD",
        "SPECIAL_EXIT",
    }
)
OVER = frozenset(
    {
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
    }
)
# Why jobs wait in the ordinary course of things.
USUAL_REASONS = frozenset(
    {"BeginTime", "Cleaning", "Dependency", "JobArrayTaskLimit", "None", "Priority", "Resources"}
)


@dataclass(frozen=True)
class QueuedJob:
    """A job as squeue shows it; `reason` says why it waits or how it ended."""

    state: str
    reason: str
    node: str

    @property
    def is_waiting(self) -> bool:
        """Whether it has not begun, or waits to begin again."""
        return self.state in WAITING

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good. One that is COMPLETING may still be requeued."""
        return self.state in OVER

    @property
    def is_stuck(self) -> bool:
        """Whether Slurm tried to start it, could not, and will not try again by itself."""
        return self.is_waiting and "launch failed" in self.reason.replace("_", " ").lower()


@dataclass(frozen=True)
class Snapshot:
    """Our jobs by id (`12`, or `12_3` within an array) at a moment of `time.monotonic`."""

    time: float
    jobs: Mapping[str, QueuedJob]

    @property
    def active(self) -> list[str]:
        """Ids of the jobs that are not over."""
        return [name for name, job in self.jobs.items() if not job.is_over]


def job_name(output_dir: Path) -> str:
    """How the jobs of an output folder are called: to be recognised by people and by us."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", output_dir.name)[:40].strip("_") or "clip_pkg"
    return f"{readable}-{digest(str(output_dir))[:10]}"


@dataclass
class SlurmQueue:
    """The user's jobs with one name. `say` tells people what they would not see otherwise."""

    name: str
    say: Callable[[str], None]
    _snapshot: Snapshot = field(default_factory=lambda: Snapshot(-1.0, {}))
    _asked: float = -math.inf
    _answered: float = field(default_factory=time.monotonic)
    _changed: float = field(default_factory=time.monotonic)
    _stopping: set[str] = field(default_factory=set)
    _said: set[str] = field(default_factory=set)
    _orders: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def look(self) -> Snapshot:
        """Return the latest snapshot; asks again when it is old.

        The longer nothing has changed, the longer are the pauses.
        """
        now = time.monotonic()
        pause = min(LONGEST_PAUSE, max(SHORTEST_PAUSE, (now - self._changed) / 10))
        if now - self._asked >= (SHORTEST_PAUSE if self._stopping else pause):
            self.ask()
            self._repeat_stops()
        return self._snapshot

    def ask(self) -> Snapshot:
        """Ask squeue now; the snapshot before stays if it does not answer."""
        self._asked = time.monotonic()
        where = ["--states=all", f"--user={os.getuid()}", f"--name={self.name}"]
        done = call_slurm("squeue", "--noheader", "--array", *where, "--format=%i|%T|%r|%N")
        if done is None or done.returncode != 0:
            self._unanswered("" if done is None else done.stderr.strip())
            return self._snapshot
        jobs = _parse(done.stdout.splitlines())
        if jobs != self._snapshot.jobs:
            self._changed = self._asked
        # Its time is that of the question: what was submitted later need not be in it.
        self._snapshot, self._answered = Snapshot(self._asked, jobs), time.monotonic()
        self._tell_reasons()
        return self._snapshot

    def submitted(self) -> None:
        """Note that there are new jobs: their beginning is worth looking out for."""
        self._changed = time.monotonic()

    def stop(self, name: str) -> None:
        """Take a waiting job out of the queue; ask a running one to checkpoint and end.

        Asked again until it is over: a job that is only starting hears no signal.
        """
        self._stopping.add(name)
        self._asked = -math.inf

    def _repeat_stops(self) -> None:
        if self._has_unfinished_orders():
            return
        ids = [name for name in self._snapshot.active if name in self._stopping]
        waiting = [name for name in ids if self._snapshot.jobs[name].is_waiting]
        running = [name for name in ids if name not in waiting]
        if waiting:
            self._cancel("--state=PENDING", *waiting)
        if running:
            self._cancel(f"--signal={STOP_SIGNAL.name.removeprefix('SIG')}", *running)

    def cancel(self, names: Collection[str]) -> None:
        """Take jobs out of the queue, or end them."""
        if names:
            self._cancel(*names)

    def end(self, names: Collection[str] | None = None) -> bool:
        """End these jobs, or all of this name, and wait for it; returns whether they are gone."""
        words = [f"--user={os.getuid()}", f"--name={self.name}"] if names is None else names
        began = cancelled = time.monotonic()
        self._cancel(*words)
        try:
            while True:
                snapshot = self.ask()
                now = time.monotonic()
                left = [name for name in snapshot.active if names is None or name in names]
                if snapshot.time >= began and not left:
                    return True
                if now - began > SECONDS_TO_EMPTY:
                    return False
                if now - cancelled > SECONDS_BETWEEN_CANCELS and not self._has_unfinished_orders():
                    cancelled = now
                    self._cancel(*words)
                time.sleep(SECONDS_BETWEEN_CHECKS)
        finally:
            for order in self._orders:
                order.kill()
                order.wait()

    def _cancel(self, *words: str) -> None:
        """Start scancel, without waiting: it tries for a minute while other jobs come and go.

        Its exit code says little; what became of the jobs is seen in the next snapshot.
        """
        self._has_unfinished_orders()
        self._orders.append(
            subprocess.Popen(
                ["scancel", "--quiet", *words],  # noqa: S607 - where it is, is the cluster's choice
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the launcher
            )
        )

    def _has_unfinished_orders(self) -> bool:
        self._orders = [order for order in self._orders if order.poll() is None]
        return bool(self._orders)

    def _unanswered(self, message: str) -> None:
        if time.monotonic() - self._answered > SECONDS_OF_SILENCE:
            self._say_once(
                f"Slurm does not answer{f' ({message})' if message else ''}. Jobs go on without; "
                "their results are seen as soon as their files are there."
            )

    def _tell_reasons(self) -> None:
        for job in self._snapshot.jobs.values():
            if job.is_waiting and job.reason not in USUAL_REASONS:
                self._say_once(f"Slurm lets jobs wait: {job.reason}")

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self.say(message)


def _parse(lines: Iterable[str]) -> dict[str, QueuedJob]:
    jobs = {}
    for line in lines:
        name, state, reason, node = [part.strip() for part in line.split("|", 3)]
        jobs[name] = QueuedJob(state, reason, node)
    return jobs


def call_slurm(*words: str) -> subprocess.CompletedProcess[str] | None:
    """Run a command of Slurm; None if it took too long."""
    try:
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_TO_ANSWER,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the launcher
        )
    except subprocess.TimeoutExpired:
        return None
