"""Starts the processes (ranks) that train one fold together, and watches over them.

Each is `python -m clip_pkg.training.rank` with the environment variables of torchrun. Its task is a
line on standard input. A further line asks the first rank for a checkpoint and an end; the end of
the input means that whoever started the ranks is gone, and ends each one at once. How a rank ended
stands in the store where the ranks meet, which is kept here.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from clip_pkg.base.child_process import (
    ChildProcess,
    end_signals_blocked,
    how_it_ended,
    last_lines,
)
from clip_pkg.study.tasks import FoldFailure, Task, failure_from_json, task_to_json

if TYPE_CHECKING:
    from clip_pkg.training.trainer import Stop

HOST = "127.0.0.1"
SECONDS_BETWEEN_POLLS = 0.1
SECONDS_TO_FOLLOW = 5.0  # for the other ranks, once one has ended
SECONDS_TO_DIE = 30.0


def train_on_ranks(
    task: Task, place: Mapping[str, Any], stream: TextIO, stop: Stop
) -> tuple[str, FoldFailure | None]:
    """Train a fold in `task.gpus` processes; returns the two fields of `worker.Report`.

    place: of the first rank; the others have the devices after its. stream: a file, gets what they
    print. No process is left, however this ends.
    """
    with RankProcesses(task, place, stream) as ranks:
        asked = False
        while not ranks.are_over():
            if stop and not asked:
                asked = True
                ranks.ask_to_stop()
            time.sleep(SECONDS_BETWEEN_POLLS)
        return ranks.outcome()


class RankProcesses:
    """The ranks of one task; all of them have ended when the context is left."""

    def __init__(self, task: Task, place: Mapping[str, Any], stream: TextIO) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415

        self._task = task
        self._place = {**place, "threads": max(1, place["threads"] // task.gpus)}
        self._stream = stream
        self._store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
        self._processes: list[ChildProcess] = []

    def __enter__(self) -> RankProcesses:
        try:
            with end_signals_blocked():
                for rank in range(self._task.gpus):
                    self._processes.append(self._start(rank))
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill()

    def are_over(self) -> bool:
        """Whether the first rank has said how it ended, or one can no longer take part."""
        return self._report(0) is not None or any(
            process.exit_code() for process in self._processes
        )

    def ask_to_stop(self) -> None:
        """Ask the first rank for a checkpoint and an end; the others need not know."""
        self._processes[0].write("stop")

    def outcome(self) -> tuple[str, FoldFailure | None]:
        """Say how the task ended: as the first rank says, or why it could not go on."""
        first = self._report(0)
        if first is None or first["state"] != "interrupted":
            self._wait()
        reports = {rank: report for rank in self._ranks if (report := self._report(rank))}
        if 0 in reports and reports[0]["state"] != "failed":
            return reports[0]["state"], None
        found = cause(
            sorted((r for r in reports.values() if r["failure"]), key=lambda r: r["moment"]),
            {
                rank: self._processes[rank].exit_code()
                for rank in self._ranks
                if rank not in reports
            },
        )
        if isinstance(found, int):
            found = self._crash(found)
        return "failed", found

    @property
    def _ranks(self) -> range:
        return range(len(self._processes))

    def _start(self, rank: int) -> ChildProcess:
        size = str(self._task.gpus)
        process = ChildProcess(
            "clip_pkg.training.rank",
            output=self._stream.fileno(),
            new_session=False,
            env={
                # All ranks are on this machine, whatever its name may resolve to.
                "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
                # Otherwise each rank warns that it looks for unused parameters and finds none.
                "TORCH_CPP_LOG_LEVEL": "ERROR",
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": size,
                "LOCAL_WORLD_SIZE": size,
                "MASTER_ADDR": HOST,
                "MASTER_PORT": str(self._store.port),
            },
        )
        process.write({"task": task_to_json(self._task), "place": self._place})
        return process

    def _report(self, rank: int) -> dict[str, Any] | None:
        key = f"report/{rank}"
        if not self._store.check([key]):
            return None
        report: dict[str, Any] = json.loads(self._store.get(key))
        return report

    def _wait(self) -> None:
        """Let the ranks end by themselves for a while."""
        deadline = time.monotonic() + SECONDS_TO_FOLLOW
        while time.monotonic() < deadline and any(p.exit_code() is None for p in self._processes):
            time.sleep(SECONDS_BETWEEN_POLLS)

    def _crash(self, rank: int) -> FoldFailure:
        how = how_it_ended(self._processes[rank].exit_code() or 0)
        which = f"process {rank + 1} of the {len(self._processes)} that trained it together"
        return FoldFailure(
            identity=self._task.identity,
            fold=self._task.fold,
            kind="crash",
            reason=f"{which} {how} and left no message",
            detail="\n".join(last_lines(Path(self._place["log_file"]))),
            log_file=self._place["log_file"],
        )

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            # A process that hangs in a driver exits when the driver lets it.
            process.wait(SECONDS_TO_DIE)


def cause(
    reports: Sequence[Mapping[str, Any]], vanished: Mapping[int, int | None]
) -> FoldFailure | int:
    """Find what was first: the failure that a rank reported, or the rank that left no report.

    A rank that fails takes the others with it, because their connections to it break. So a failure
    that says what it is comes before a rank that just vanished, and that one before errors.

    reports: of failed ranks, in the order of time. vanished: exit codes of ranks without a report.
    """
    failures = [failure_from_json(report["failure"]) for report in reports]
    for failure in failures:
        if failure.kind != "error":
            return failure
    for rank, code in vanished.items():
        # Libraries that lose a connection may abort their process.
        if code is not None and not (failures and code == -signal.SIGABRT):
            return rank
    assert failures, "a rank has ended"
    return failures[0]
