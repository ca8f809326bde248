"""One fold within a Slurm job: where it runs, what signals mean, and how it comes back.

Slurm announces the end of a job's time, and on many clusters preemption, with submitit's signal
(USR2 unless SUBMITIT_PREEMPT_SIGNAL says otherwise). The fold then checkpoints and the job puts
itself back into the queue. After SIGTERM it only checkpoints: that comes with scancel, and where
Slurm requeues the job by itself. The launcher stops a job with a signal of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from clip_pkg.base.files import write_text
from clip_pkg.scheduling.devices import find_devices, has_nvidia_library, usable_cores
from clip_pkg.scheduling.slurm_queue import STOP_SIGNAL, call_slurm
from clip_pkg.study.identity import NUMERICS_VERSION
from clip_pkg.study.tasks import FailureKind, FoldFailure, Task, write_record

EXIT_INTERRUPTED = 130
# In a row; a job that came to no checkpoint so often is not let into the queue again.
MOST_FRUITLESS_RESTARTS = 3
REQUEUE_ATTEMPTS = 8
SECONDS_BETWEEN_REQUEUES = 3.0


class Report(Protocol):
    """How a task ended: `done`, `failed` or `interrupted`."""

    @property
    def state(self) -> str:
        """One of the three."""
        ...


class Signals:
    """True once the job should end; remembers who asked."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the launcher's word outweighs Slurm's, otherwise the first counts."""
        del frame
        if self.number is None or number == STOP_SIGNAL:
            self.number = number


RunTask = Callable[[Task, Mapping[str, Any], Signals], Report]


@dataclass(frozen=True)
class SlurmTask:
    """What travels to the cluster; called there by submitit, again after each requeue.

    run: carries out a task at a place (see `worker.Place`). request: the options of sbatch that it
    was submitted with.
    """

    run: RunTask
    task: Task
    log_file: str
    request: tuple[tuple[str, str | bool | int], ...]

    def __call__(self) -> str:
        """Train the fold, or go on with it; returns how it ended."""
        signals = Signals()
        for number in (requeue_signal(), signal.SIGTERM, STOP_SIGNAL):
            signal.signal(number, signals)
        place, problem = place_of(os.environ, self.log_file)
        self._log(f"Slurm job {job_id(os.environ)} on {os.uname().nodename}: {describe(place)}")
        if problem:
            self._log(f"NOTE: {problem}")
        if place is None:
            return self._fail("crash", problem)
        if self.task.identity.numerics != NUMERICS_VERSION:
            return self._fail(
                "user error",
                "clip_pkg was updated after this job was submitted and its numbers would differ; "
                "run the same command again",
            )
        before = self._checkpoint()
        state = self.run(self.task, place, signals).state
        if state != "interrupted":
            return state
        assert signals.number is not None, "nobody else interrupts a fold"
        self._log(f"Interrupted by {signal.Signals(signals.number).name}")
        if signals.number == requeue_signal():
            self._come_back(advanced=self._checkpoint() != before)
        # Not by returning: submitit would keep a result, and Slurm would call the job completed.
        sys.exit(EXIT_INTERRUPTED)

    def _checkpoint(self) -> int | None:
        """Something that is different after each checkpoint."""
        try:
            return self.task.paths.checkpoint_latest.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _come_back(self, *, advanced: bool) -> None:
        """Put the job back into the queue, unless it gets nowhere."""
        fruitless = self._count_fruitless(advanced=advanced)
        if fruitless > MOST_FRUITLESS_RESTARTS:
            self._fail(
                "crash",
                f"it was ended {fruitless} times by its time limit or by preemption before it "
                "came to its next checkpoint; give it more --time",
            )
            return
        why = requeue(job_id(os.environ))
        if why:
            self._fail(
                "crash",
                "it was ended by its time limit or by preemption and could not be put back into "
                f"the queue: {why}",
            )

    def _count_fruitless(self, *, advanced: bool) -> int:
        """Runs of this job in a row, up to this one, that came to no checkpoint."""
        path = Path(os.environ["SUBMITIT_FOLDER"]) / f"{job_id(os.environ)}_fruitless"
        before = int(path.read_text(encoding="utf-8")) if path.exists() else 0
        count = 0 if advanced else before + 1
        write_text(path, str(count))
        return count

    def _fail(self, kind: FailureKind, reason: str) -> str:
        task = self.task
        self._log(f"FAILED ({kind}): {reason}")
        write_record(
            task.paths.failure,
            FoldFailure(task.identity, task.fold, kind, reason, log_file=self.log_file),
        )
        return "failed"

    def _log(self, line: str) -> None:
        path = Path(self.log_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def requeue(name: str) -> str:
    """Put a running job back into its queue; returns why that was not possible, or nothing.

    Tries again for a while: Slurm refuses changes while others of the same array come and go.
    """
    why = "Slurm does not answer"
    for _ in range(REQUEUE_ATTEMPTS):
        done = call_slurm("scontrol", "requeue", name)
        if done is not None and done.returncode == 0:
            return ""
        why = why if done is None else done.stderr.strip()
        time.sleep(SECONDS_BETWEEN_REQUEUES)
    return why


def requeue_signal() -> signal.Signals:
    """The signal after which a job is to come back."""
    from submitit.core.job_environment import JobEnvironment  # noqa: PLC0415 - optional package

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


def job_id(environment: Mapping[str, str]) -> str:
    """How Slurm calls the job: `12`, or `12_3` within an array.

    Never the plain number of an array's element: one of these is the whole array's as well.
    """
    array = environment.get("SLURM_ARRAY_JOB_ID")
    if array is None:
        return environment["SLURM_JOB_ID"]
    return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"


def place_of(environment: Mapping[str, str], log_file: str) -> tuple[dict[str, Any] | None, str]:
    """Where the job may train, and what people should know; None where it must not train at all.

    A GPU that Slurm gave but that cannot be used is an error, since nobody wants to occupy it with
    hours of training on the CPU. Where NVIDIA's library is not even installed it is no GPU that
    this program can use, and the CPU is all there is.
    """
    given = environment.get("SLURM_STEP_GPUS") or environment.get("SLURM_JOB_GPUS") or ""
    threads = usable_cores()
    for name in ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"):
        if environment.get(name, "").isdecimal():
            threads = int(environment[name])
    place = {"device": "cpu", "device_id": "slurm", "threads": threads, "log_file": log_file}
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if not visible or visible == "NoDevFiles":
        return place, ""
    devices, _ = find_devices(None, environment=environment)
    gpus = given or visible
    if devices[0].is_gpu:
        return {**place, "device": devices[0].torch_name, "device_id": gpus}, ""
    if has_nvidia_library():
        return None, f"Slurm gave GPU {gpus} of {os.uname().nodename}, but its driver shows none"
    return place, (
        f"Slurm gave GPU {gpus}, but no NVIDIA driver is installed here: training runs on the CPU"
    )


def describe(place: Mapping[str, Any] | None) -> str:
    """A place for people."""
    if place is None:
        return "nowhere to train"
    where = "CPU" if place["device"] == "cpu" else f"GPU {place['device_id']}"
    return f"{where}, {place['threads']} CPU thread(s)"


def setup_lines(checkout: Path) -> Sequence[str]:
    """Commands of the job's script before it starts Python."""
    return [
        # The package as it is here, whatever the cluster's policy on environments is.
        f"export PYTHONPATH={_quoted(str(checkout))}${{PYTHONPATH:+:$PYTHONPATH}}",
        # Threads that wait by spinning make training many times slower on a CPU that is shared.
        'export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"',
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
        # srun of Slurm 22.05 and later does not take this over from sbatch.
        'if [ -n "${SLURM_CPUS_PER_TASK-}" ]; then',
        '  export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',
        "fi",
    ]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
