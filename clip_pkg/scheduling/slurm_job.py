"""The program of a Slurm job: trains the task of its array index.

    python -m clip_pkg.scheduling.slurm_job TASKS.json

Slurm announces the end of a job's time, and on many clusters preemption, with `REQUEUE_SIGNAL`. The
fold then writes a checkpoint and the job requeues itself. After SIGTERM it only writes a
checkpoint: scancel sends it, and Slurm before it requeues a job. The launcher stops a job with
`STOP_SIGNAL`.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType

from clip_pkg.base.cores import usable_cores
from clip_pkg.base.errors import DamagedFile
from clip_pkg.base.files import write_text
from clip_pkg.base.reading import Count, read_json
from clip_pkg.scheduling.devices import find_devices, has_nvidia_library
from clip_pkg.study.tasks import FailureKind, Task, failure_of, read_task, record_failure
from clip_pkg.training.worker import TaskPlacement, run_task

REQUEUE_SIGNAL = signal.SIGUSR2  # NCCL may use SIGUSR1
STOP_SIGNAL = signal.SIGINT  # not SIGTERM, which Slurm itself sends in several cases
EXIT_INTERRUPTED = 130
MAX_FRUITLESS_RUNS = 4  # in a row, without a new checkpoint
REQUEUE_ATTEMPTS = 8  # Slurm refuses changes while others of the same array start and end
SECONDS_BETWEEN_REQUEUES = 3.0
SECONDS_TO_ANSWER = 60.0


class Signals:
    """True once a signal has asked the job to end."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first one counts, unless the launcher stops the job."""
        del frame
        if self.number is None or number == STOP_SIGNAL:
            self.number = number


def run(task: Task, log_file: Path, count_file: Path) -> int:
    """Train a task on the devices of this job; returns the exit code.

    count_file: holds the number of runs of this job without a new checkpoint.
    """

    def log(line: str) -> None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def fail(kind: FailureKind, reason: str) -> int:
        log(f"FAILED ({kind}): {reason}")
        record_failure(task, failure_of(task, kind, reason, log_file))
        return 1

    signals = Signals()
    for number in (REQUEUE_SIGNAL, signal.SIGTERM, STOP_SIGNAL):
        signal.signal(number, signals)
    place, problem = place_of(os.environ, log_file)
    name = job_id(os.environ)
    where = "no usable device"
    if place is not None:
        where = "CPU" if place.device == "cpu" else f"GPU {place.device_id}"
        where += f", {place.threads} CPU thread(s)"
    log(f"Slurm job {name} on {platform.node()}: {where}")
    if problem:
        log(f"NOTE: {problem}")
    if place is None:
        return fail("crash", problem)
    before = _modified(task.paths.checkpoint_latest)
    report = run_task(task, place, signals)
    if report.state != "interrupted":
        return 0
    assert signals.number is not None, "only a signal interrupts a fold"
    log(f"Interrupted by {signal.Signals(signals.number).name}")
    if signals.number != REQUEUE_SIGNAL:
        return EXIT_INTERRUPTED
    has_advanced = _modified(task.paths.checkpoint_latest) != before
    fruitless = 0 if has_advanced else _number(count_file) + 1
    write_text(count_file, str(fruitless))
    ended = "the job was ended by its time limit or by preemption"
    if fruitless >= MAX_FRUITLESS_RUNS:
        return fail(
            "crash",
            f"{ended} {fruitless} times in a row without a new checkpoint; give it more --time",
        )
    problem = requeue(name)
    if problem:
        return fail("crash", f"{ended} and could not be put back into the queue: {problem}")
    return EXIT_INTERRUPTED


def _modified(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _number(path: Path) -> int:
    try:
        number: int = read_json(path, Count)
        return number
    except (FileNotFoundError, DamagedFile):
        return 0


def requeue(name: str) -> str:
    """Put a running job back into the queue; returns why that failed, or nothing."""
    problem = "Slurm does not respond"
    for _ in range(REQUEUE_ATTEMPTS):
        done = call_slurm("scontrol", "requeue", name)
        if done is not None and done.returncode == 0:
            return ""
        problem = problem if done is None else done.stderr.strip()
        time.sleep(SECONDS_BETWEEN_REQUEUES)
    return problem


def call_slurm(
    *words: str, environment: Mapping[str, str] | None = None, seconds: float = SECONDS_TO_ANSWER
) -> subprocess.CompletedProcess[str] | None:
    """Run one of Slurm's commands; None if it took too long."""
    try:
        return subprocess.run(
            words,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the launcher
        )
    except subprocess.TimeoutExpired:
        return None


def job_id(environment: Mapping[str, str]) -> str:
    """Slurm's id of this job, such as `12_3`.

    SLURM_JOB_ID is not used: for one element it is the id of the whole array.
    """
    return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"


def place_of(environment: Mapping[str, str], log_file: Path) -> tuple[TaskPlacement | None, str]:
    """Return the placement of this job and a notice; None if it must not train.

    A GPU that Slurm allocated but that does not work is an error: training on the CPU must not
    occupy it for hours. Without NVIDIA's library the program cannot use the GPU, only the CPU.
    """
    threads = usable_cores()
    for name in ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"):
        if environment.get(name, "").isdecimal():
            threads = int(environment[name])
    place = TaskPlacement("cpu", "slurm", threads, str(log_file))
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if not visible or visible == "NoDevFiles":
        return place, ""
    gpus = environment.get("SLURM_STEP_GPUS") or environment.get("SLURM_JOB_GPUS") or visible
    devices, _ = find_devices(None, environment=environment)
    if devices[0].is_gpu:
        return replace(place, device=devices[0].torch_name, device_id=gpus), ""
    if has_nvidia_library():
        where = f"GPU {gpus} of {platform.node()}"
        return None, f"Slurm allocated {where}, but its driver finds none"
    return place, (
        f"Slurm allocated GPU {gpus}, but this node has no NVIDIA driver: training runs on the CPU"
    )


def main() -> int:
    tasks_file = Path(sys.argv[1])
    index = int(os.environ["SLURM_ARRAY_TASK_ID"])
    one = read_json(tasks_file, list[dict[str, str]])[index]
    task = read_task(Path(one["task_file"]))
    assert task is not None, f"{one['task_file']} is missing"
    return run(task, Path(one["log_file"]), tasks_file.with_name(f"{tasks_file.stem}_{index}.runs"))


if __name__ == "__main__":
    sys.exit(main())
