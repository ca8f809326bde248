"""The processes (ranks) that train one fold together: starting them, and what each one runs.

    python -m clip_pkg.training.rank_processes     one rank, with the environment of torchrun

A rank reads its task from a line on standard input. A further line asks the first rank for a
checkpoint and a stop. A rank exits at the end of its input, because then its parent has exited.
Ranks write their reports into the store through which they connect; the parent serves it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from clip_pkg.base.child_process import (
    ChildProcess,
    end_signals_blocked,
    how_it_ended,
    last_lines,
    listen,
)
from clip_pkg.study.tasks import (
    FoldFailure,
    PretrainTask,
    Task,
    failure_from_json,
    failure_of,
    task_from_json,
    task_to_json,
)
from clip_pkg.training.worker import (
    EXIT_CODES,
    StopRequest,
    TaskPlacement,
    TaskReport,
    attempt,
    train_here,
)

if TYPE_CHECKING:
    from clip_pkg.training.trainer import Stop

HOST = "127.0.0.1"
SECONDS_BETWEEN_POLLS = 0.1
SECONDS_TO_FOLLOW = 5.0  # for the other ranks, once one has ended
SECONDS_TO_DIE = 30.0


def train_on_ranks(task: Task, place: TaskPlacement, stream: TextIO, stop: Stop) -> TaskReport:
    """Train a fold in `task.gpus` processes.

    place: of the first rank; the others use the devices after it. stream: a file for the output of
    all ranks. No process outlives this function.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415

    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    ranks = range(task.gpus)
    processes: list[ChildProcess] = []

    def report(rank: int) -> dict[str, Any] | None:
        key = f"report/{rank}"
        return json.loads(store.get(key)) if store.check([key]) else None

    try:
        with end_signals_blocked():
            for rank in ranks:
                processes.append(_start_rank(task, place, rank, store.port, stream))
        asked = False
        while report(0) is None and not any(one.exit_code() for one in processes):
            if stop and not asked:
                asked = True
                processes[0].write("stop")  # the others follow the first rank
            time.sleep(SECONDS_BETWEEN_POLLS)
        first = report(0)
        if first is None or first["state"] != "interrupted":
            deadline = time.monotonic() + SECONDS_TO_FOLLOW
            while time.monotonic() < deadline and any(one.exit_code() is None for one in processes):
                time.sleep(SECONDS_BETWEEN_POLLS)
        reports = {rank: found for rank in ranks if (found := report(rank))}
        codes = {rank: processes[rank].exit_code() for rank in ranks if rank not in reports}
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait(SECONDS_TO_DIE)  # one that hangs in a driver exits when the driver lets it
    if 0 in reports and reports[0]["state"] != "failed":
        return TaskReport(reports[0]["state"])
    failed = sorted((r for r in reports.values() if r["failure"]), key=lambda r: r["moment"])
    failure = cause(failed, codes)
    if isinstance(failure, int):
        which = f"process {failure + 1} of the {task.gpus} that trained it together"
        reason = f"{which} {how_it_ended(codes[failure] or 0)} and left no message"
        detail = "\n".join(last_lines(Path(place.log_file)))
        failure = failure_of(task, "crash", reason, place.log_file, detail)
    return TaskReport("failed", failure)


def _start_rank(
    task: Task, place: TaskPlacement, rank: int, port: int, stream: TextIO
) -> ChildProcess:
    process = ChildProcess(
        "clip_pkg.training.rank_processes",
        output=stream.fileno(),
        new_session=False,
        env={
            # All ranks are on this machine, whatever its name may resolve to.
            "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
            # Otherwise each rank warns that it looks for unused parameters and finds none.
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(task.gpus),
            "LOCAL_WORLD_SIZE": str(task.gpus),
            "MASTER_ADDR": HOST,
            "MASTER_PORT": str(port),
        },
    )
    share = replace(place, threads=max(1, place.threads // task.gpus))
    process.write({"task": task_to_json(task), "place": asdict(share)})
    return process


def cause(
    reports: Sequence[Mapping[str, Any]], vanished: Mapping[int, int | None]
) -> FoldFailure | int:
    """Return the original failure: one that a rank reported, or the rank that left no report.

    A rank that fails takes the others with it, because their connections to it break. So a failure
    of a specific kind comes before a rank that vanished, and that one before errors.

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


def main() -> int:
    """Train a fold together with the other ranks; the first one leads."""
    # A rank must not outlive the process that started it.
    messages = listen(lambda: os._exit(EXIT_CODES["failed"]))
    message = messages.get()
    task, place = task_from_json(message["task"]), TaskPlacement(**message["place"])
    assert not isinstance(task, PretrainTask), "pre-trainings have one process"
    stop = StopRequest()

    def await_stop() -> None:
        messages.get()  # any further message
        stop.set()

    threading.Thread(target=await_stop, daemon=True).start()

    # Imported only now, so that the exit of the parent is noticed meanwhile.
    from clip_pkg.training import ranks  # noqa: PLC0415
    from clip_pkg.training.build import trainer_for  # noqa: PLC0415

    store = ranks.open_store()

    def train() -> None:
        device = ranks.rank_device(place.device)
        group = ranks.join(device, store)
        if group.rank == 0:
            train_here(task, replace(place, device=str(device)), sys.stdout, stop, group)
            group.announce()
        else:
            with trainer_for(task, device, group) as trainer:
                trainer.follow()

    report = attempt(task, place, train)
    content = {**asdict(report), "moment": time.time()}
    store.set(f"report/{os.environ['RANK']}", json.dumps(content))
    if report.state == "done":
        ranks.leave()
        return 0
    # What is left of the connections to the other ranks must not delay the exit.
    sys.stdout.flush()
    os._exit(EXIT_CODES[report.state])


if __name__ == "__main__":
    sys.exit(main())
