"""Runs tasks: reads a task file, trains, writes a result file or a failure file.

    python -m clip_pkg.training.worker --serve       assignments as JSON lines on standard input
    python -m clip_pkg.training.worker TASK.json     one task, for clusters

In serve mode the process imports the heavy packages once and runs several tasks, until one fails;
the launcher then starts a new process. It exits at the end of its standard input, because that
means that the launcher has exited. A fold on several GPUs is trained by one child process per GPU
(`rank_processes`).
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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from filelock import FileLock

from clip_pkg.base.child_process import answers, listen
from clip_pkg.base.errors import DamagedFile, UserError, printable
from clip_pkg.base.files import remove
from clip_pkg.base.streams import secure_streams
from clip_pkg.study.identity import NUMERICS_VERSION, PACKAGE
from clip_pkg.study.tasks import (
    FailureKind,
    FoldFailure,
    Task,
    failure_of,
    finished,
    read_task,
    record_failure,
    task_from_json,
    write_record,
)

if TYPE_CHECKING:
    from clip_pkg.training.ranks import Ranks
    from clip_pkg.training.trainer import Stop

SECONDS_TO_CHECKPOINT = 8.0  # after the launcher's death; then the process ends in any case
SECONDS_TO_WAIT_FOR_ORPHANS = 180.0  # file servers keep a lost node's locks for a minute or two
MAX_REASON = 2000  # characters
EXIT_CODES = {"done": 0, "failed": 1, "interrupted": 130}


class StopRequest:
    """True once the worker was asked to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: the first signal requests a checkpoint and a stop, the second exits."""
        del frame
        if self:
            os._exit(128 + number)
        self.set()


@dataclass(frozen=True)
class TaskPlacement:
    """Where a task runs: torch device, the user's name for it, CPU threads, log file."""

    device: str
    device_id: str
    threads: int
    log_file: str


@dataclass(frozen=True)
class TaskReport:
    """How a task ended: state `done`, `failed` or `interrupted`, and why it failed."""

    state: str
    failure: FoldFailure | None = None


def carry_out(task: Task, place: TaskPlacement, stream: TextIO, stop: Stop) -> TaskReport:
    """Train one task and write its result file or failure file.

    stream: of the log; a file if the task is for several GPUs.
    Training stops early, with a checkpoint, once `stop` is true.
    """
    if task.gpus > 1 and finished(task) is None:
        from clip_pkg.training.rank_processes import train_on_ranks  # noqa: PLC0415

        report = train_on_ranks(task, place, stream, stop)
    else:
        report = attempt(task, place, lambda: train_here(task, place, stream, stop))
    failure = report.failure
    if failure is not None:
        with contextlib.suppress(OSError):  # the disk may be full
            stream.write(f"FAILED ({failure.kind}): {printable(failure.reason)}\n")
            stream.write(printable(failure.detail))
            stream.flush()
        record_failure(task, failure)
    return report


def train_here(
    task: Task, place: TaskPlacement, stream: TextIO, stop: Stop, ranks: Ranks | None = None
) -> None:
    """Train one task in this process; it leads `ranks` if there are several."""
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
    # A worker that lost its launcher may still run; two must never write one folder.
    with FileLock(task.lock, timeout=SECONDS_TO_WAIT_FOR_ORPHANS):
        if finished(task) is None:
            with trainer_for(task, torch.device(place.device), ranks or ALONE) as trainer:
                if not trainer.is_resumed:
                    remove(task.paths.checkpoint_latest)  # a damaged one; before what refuses it
                remove(task.paths.result)
                result = trainer.run(stream, place.device_id, stop)
            write_record(task.paths.result, result)


def attempt(task: Task, place: TaskPlacement, train: Callable[[], None]) -> TaskReport:
    """Report how `train` ended; a failure is described, not recorded."""
    import torch  # noqa: PLC0415

    from clip_pkg.training.optimisation import Diverged  # noqa: PLC0415
    from clip_pkg.training.trainer import Interrupted  # noqa: PLC0415

    try:
        torch.set_num_threads(place.threads)
        train()
        return TaskReport("done")
    except Interrupted:
        return TaskReport("interrupted")
    except Exception as error:
        kind: FailureKind = "error"
        if isinstance(error, Diverged):
            kind = "diverged"
        elif isinstance(error, DamagedFile):
            kind = "damaged file"
        elif isinstance(error, UserError):
            kind = "user error"
        elif isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            kind = "out of memory"
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            kind = "disk full"
        reason = (" ".join(str(error).split()) or type(error).__name__)[:MAX_REASON]
        detail = traceback.format_exc() if kind == "error" else ""
        return TaskReport("failed", failure_of(task, kind, reason, place.log_file, detail))


@contextlib.contextmanager
def output_into(log_file: Path) -> Iterator[TextIO]:
    """Append all output of this process, warnings of libraries included, to `log_file`."""
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


def run_task(task: Task, place: TaskPlacement, stop: Stop) -> TaskReport:
    """Run a task with all output of this process in its log."""
    with output_into(Path(place.log_file)) as stream:
        return carry_out(task, place, stream, stop)


def serve(stop: StopRequest) -> int:
    """Run assignments from standard input until it ends or a task does not succeed."""

    def on_end() -> None:
        # The launcher closes the input of idle workers only: a busy one has lost its launcher.
        stop.set()
        timer = threading.Timer(SECONDS_TO_CHECKPOINT, os._exit, (1,))
        timer.daemon = True
        timer.start()

    messages, stream = listen(on_end), answers()
    while (message := messages.get()) is not None:
        if "probe" in message:
            with output_into(Path(os.devnull)):  # libraries print while models are built
                from clip_pkg.models.probe import probe  # noqa: PLC0415

                try:
                    problems = [asdict(problem) for problem in probe(message["probe"])]
                    answer: dict[str, Any] = {"problems": problems}
                except Exception:
                    answer = {"error": traceback.format_exc()}
            stream.write(json.dumps(answer) + "\n")
            continue
        report = run_task(task_from_json(message["task"]), TaskPlacement(**message["place"]), stop)
        # Without a launcher nothing reads the pipe; the task's own files hold the result.
        with contextlib.suppress(BrokenPipeError):
            stream.write(json.dumps(asdict(report)) + "\n")
        if report.state != "done":
            return EXIT_CODES[report.state]
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the worker process."""
    if arguments is None:
        secure_streams()
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
    place = TaskPlacement(parsed.device, parsed.device, parsed.threads, "standard output")
    return EXIT_CODES[carry_out(task, place, sys.stdout, stop).state]


if __name__ == "__main__":
    sys.exit(main())
