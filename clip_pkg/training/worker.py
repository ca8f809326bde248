"""Carries out fold tasks: reads a task file, trains, leaves a result file or a failure file.

    python -m clip_pkg.training.worker --serve       assignments as JSON lines on standard input
    python -m clip_pkg.training.worker TASK.json     one task, for clusters

In serve mode the process imports the heavy packages once and lives for several tasks, until one
fails; the launcher then starts a fresh one. It also ends when its standard input does, because
that means that the launcher is gone. A fold for several GPUs is trained by as many processes of
their own (`rank_processes`); the worker only watches over them.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from filelock import FileLock

from clip_pkg.base.child_process import answers, listen
from clip_pkg.base.errors import UserError
from clip_pkg.study.identity import NUMERICS_VERSION, PACKAGE
from clip_pkg.study.tasks import FailureKind, FoldFailure, Task, finished, read_task, write_record

if TYPE_CHECKING:
    from clip_pkg.training.ranks import Ranks
    from clip_pkg.training.trainer import Stop

SECONDS_TO_CHECKPOINT = 8.0  # after the launcher's death; then the process ends in any case
SECONDS_TO_WAIT_FOR_ORPHANS = 180.0  # file servers keep a lost node's locks for a minute or two
MAX_REASON = 2000  # characters
EXIT_CODES = {"done": 0, "failed": 1, "interrupted": 130}


class StopRequest:
    """Becomes true once someone wants the worker to end."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """Ask."""
        self._event.set()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: the first time ask for a checkpoint and an end, the second time end."""
        del frame
        if self:
            os._exit(128 + number)
        self.set()


@dataclass(frozen=True)
class Place:
    """Where a task is carried out: torch device, the user's name for it, CPU threads, log."""

    device: str
    device_id: str
    threads: int
    log_file: str


@dataclass(frozen=True)
class Report:
    """How a task ended: `done`, `failed` or `interrupted`, and why it failed."""

    state: str
    failure: FoldFailure | None = None


def carry_out(task: Task, place: Place, stream: TextIO, stop: Stop) -> Report:
    """Train one fold and leave its result file or failure file.

    A task for several GPUs is trained by as many processes; `stream` is a file then.
    The fold ends early, resumable, once `stop` is true.
    """
    if task.gpus > 1 and finished(task) is None:
        from clip_pkg.training.rank_processes import train_on_ranks  # noqa: PLC0415

        report = Report(*train_on_ranks(task, asdict(place), stream, stop))
    else:
        report = attempt(task, place, lambda: train_here(task, place, stream, stop))
    if report.failure is not None:
        _record(task, report.failure, stream)
    return report


def train_here(
    task: Task, place: Place, stream: TextIO, stop: Stop, ranks: Ranks | None = None
) -> None:
    """Train one fold in this process, which is the first of `ranks` if there are several."""
    # Imported here so that reading the command line needs no torch.
    import torch  # noqa: PLC0415

    from clip_pkg.training.build import trainer_for  # noqa: PLC0415
    from clip_pkg.training.ranks import ALONE  # noqa: PLC0415

    if task.identity.numerics != NUMERICS_VERSION:  # another node, or an update in the meantime
        raise UserError(
            f"clip_pkg in {PACKAGE} trains with numerics version {NUMERICS_VERSION}, this task "
            f"needs {task.identity.numerics}; use one version and run the same command again"
        )
    task.lock.parent.mkdir(parents=True, exist_ok=True)
    # A worker that lost its launcher may still be ending; two must never write one folder.
    with FileLock(task.lock, timeout=SECONDS_TO_WAIT_FOR_ORPHANS):
        if finished(task) is None:
            with trainer_for(task, torch.device(place.device), ranks or ALONE) as trainer:
                result = trainer.run(stream, place.device_id, stop)
            write_record(task.paths.result, result)


def attempt(task: Task, place: Place, train: Callable[[], None]) -> Report:
    """Report how `train` ended; a failure is described, not recorded."""
    import torch  # noqa: PLC0415

    from clip_pkg.training.trainer import Interrupted  # noqa: PLC0415

    try:
        torch.set_num_threads(place.threads)
        train()
        return Report("done")
    except Interrupted:
        return Report("interrupted")
    except Exception as error:
        return Report("failed", _failure(task, place, error))


def _failure(task: Task, place: Place, error: Exception) -> FoldFailure:
    kind = _kind(error)
    detail = traceback.format_exc() if kind == "error" else ""
    reason = " ".join(str(error).split()) or type(error).__name__
    return FoldFailure(task.identity, task.fold, kind, reason[:MAX_REASON], detail, place.log_file)


def _record(task: Task, failure: FoldFailure, stream: TextIO) -> None:
    """Write what went wrong into the log and the fold's folder, as far as they can be.

    On a full disk neither can be written; the launcher gets the failure in any case.
    """
    with contextlib.suppress(OSError):
        stream.write(f"FAILED ({failure.kind}): {failure.reason}\n{failure.detail}")
        stream.flush()
    with contextlib.suppress(OSError):
        write_record(task.paths.failure, failure)


def _kind(error: Exception) -> FailureKind:
    import torch  # noqa: PLC0415

    from clip_pkg.training.optimisation import Diverged  # noqa: PLC0415

    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, UserError):
        return "user error"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "out of memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk full"
    return "error"


@contextlib.contextmanager
def output_into(log_file: Path) -> Iterator[TextIO]:
    """Send whatever the process prints, libraries' warnings too, to the end of `log_file`."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with log_file.open("a", encoding="utf-8", buffering=1) as log:
        try:
            for number, _ in kept:
                os.dup2(log.fileno(), number)
            yield log
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)


def run_task(task: Task, place: Mapping[str, Any], stop: Stop) -> Report:
    """Carry out a task with everything that is printed in its log; place: fields of `Place`."""
    with output_into(Path(place["log_file"])) as stream:
        return carry_out(task, Place(**place), stream, stop)


def serve(stop: StopRequest) -> int:
    """Take assignments from standard input until it ends or a task does not succeed."""

    def on_end() -> None:
        # The launcher closes the input of an idle worker only. A busy one has lost its launcher.
        stop.set()
        timer = threading.Timer(SECONDS_TO_CHECKPOINT, os._exit, (1,))
        timer.daemon = True
        timer.start()

    messages, stream = listen(on_end), answers()
    while (message := messages.get()) is not None:
        if "probe" in message:
            stream.write(json.dumps(_probe(message["probe"])) + "\n")
            continue
        task = read_task(Path(message["task_file"]))
        assert task is not None, f"no task file {message['task_file']}"
        report = run_task(task, message["place"], stop)
        # Without a launcher there is no reader; the fold's own files hold the result.
        with contextlib.suppress(BrokenPipeError):
            stream.write(json.dumps(asdict(report)) + "\n")
        if report.state != "done":
            return EXIT_CODES[report.state]
    return 0


def _probe(requests: list[dict[str, Any]]) -> dict[str, Any]:
    with output_into(Path(os.devnull)):  # libraries talk while they are built
        from clip_pkg.models.probe import probe  # noqa: PLC0415

        try:
            return {"problems": [asdict(problem) for problem in probe(requests)]}
        except Exception:
            return {"error": traceback.format_exc()}


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the worker process."""
    parser = argparse.ArgumentParser(prog="python -m clip_pkg.training.worker", allow_abbrev=False)
    parser.add_argument("task", nargs="?", type=Path, help="a task.json written by the launcher")
    parser.add_argument("--serve", action="store_true", help="read assignments from standard input")
    parser.add_argument("--device", default="cpu", help="torch device of a single task")
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="train with N processes (default: the task's GPUs)"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")
    parsed = parser.parse_args(arguments)
    stop = StopRequest()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.on_signal)
    if parsed.serve:
        return serve(stop)
    task = read_task(parsed.task) if parsed.task else None
    if task is None:
        parser.error("needs a task file, or --serve")
    if parsed.ranks is not None:
        task = replace(task, gpus=parsed.ranks)
    place = Place(parsed.device, parsed.device, parsed.threads, "standard output")
    return EXIT_CODES[carry_out(task, place, sys.stdout, stop).state]


if __name__ == "__main__":
    sys.exit(main())
