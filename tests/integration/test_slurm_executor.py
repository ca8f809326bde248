"""The Slurm executor against stand-ins for Slurm's commands, and its job program without Slurm."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from clip_pkg.base.errors import UserError
from clip_pkg.scheduling import slurm as slurm_executor
from clip_pkg.scheduling import slurm_job
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, JobState, Slot
from clip_pkg.scheduling.slurm import SlurmExecutor, SlurmJob, SlurmQueue, job_name
from clip_pkg.scheduling.slurm_job import job_id, place_of
from clip_pkg.scheduling.slurm_options import SlurmOptions
from clip_pkg.study.identity import NUMERICS_VERSION
from clip_pkg.study.tasks import FoldFailure, FoldTask, read_record, write_record, write_task
from clip_pkg.training import worker
from clip_pkg.training.worker import TaskPlacement, TaskReport
from support.fold_tasks import task as paper_task

SUBMITTED = """
cat "$2" >>"$here/scripts"
echo $(($(wc -l <"$here/calls_of_sbatch") + 6))
"""


@dataclass
class Pretence:
    """Commands of Slurm that note how they were called; squeue shows what it is told to."""

    folder: Path

    def write(self, name: str, body: str = "") -> None:
        path = self.folder / name
        note = f'here="{self.folder}"\necho "$*" >>"$here/calls_of_{name}"\n'
        path.write_text(f"#!/bin/sh\n{note}{body}\n")
        path.chmod(0o755)

    def show(self, **jobs: str) -> None:
        lines = [f"{name.removeprefix('job')}|{text}|" for name, text in jobs.items()]
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))

    def calls(self, name: str) -> list[str]:
        path = self.folder / f"calls_of_{name}"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretence:
    folder = tmp_path / "bin"
    folder.mkdir()
    pretence = Pretence(folder)
    pretence.write("sbatch", SUBMITTED)
    pretence.write("squeue", 'cat "$here/queue"')
    for name in ("srun", "scancel", "scontrol"):
        pretence.write(name)
    pretence.show()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in (
        "MIN_PAUSE",
        "MAX_PAUSE",
        "SECONDS_BETWEEN_CHECKS",
        "SECONDS_TO_BE_SURE",
        "SECONDS_FOR_LATE_FILES",
    ):
        monkeypatch.setattr(slurm_executor, name, 0.0)
    monkeypatch.setattr(slurm_job, "SECONDS_BETWEEN_REQUEUES", 0.0)
    return pretence


def fold_task(tmp_path: Path, fold: int = 1, gpus: int = 1) -> FoldTask:
    task = paper_task("a", fold, gpus=gpus, batch_size=8, root=tmp_path / "out")
    task.paths.root.mkdir(parents=True, exist_ok=True)
    return task


def assignment(tmp_path: Path, fold: int = 1, gpus: int = 1) -> Assignment:
    slot = Slot(Device(f"slurm-{fold}", "", "Slurm", cluster="slurm"))
    return Assignment(fold_task(tmp_path, fold, gpus), (slot,), tmp_path / f"{fold}.log", 1)


Said = list[str]


@pytest.fixture
def said() -> Said:
    return []


@pytest.fixture
def executor(tmp_path: Path, slurm: Pretence, said: Said) -> SlurmExecutor:
    options = SlurmOptions("gpu", 90, "gpu:1", (("account", "my lab"),), 3)
    return SlurmExecutor(options, tmp_path / "out/.slurm", said.append)


def test_a_batch_is_one_array_per_number_of_gpus(
    tmp_path: Path, slurm: Pretence, executor: SlurmExecutor
) -> None:
    tasks = [assignment(tmp_path, fold, gpus) for fold, gpus in ((1, 1), (2, 1), (3, 2))]
    jobs = executor.submit(tasks)
    assert [job.id for job in jobs] == ["7_0", "7_1", "8_0"]
    assert jobs[0].process == "Slurm job 7_0"
    assert len(slurm.calls("sbatch")) == 2
    scripts = (slurm.folder / "scripts").read_text()
    name = job_name(tmp_path / "out")
    for line in (
        "--array=0-1%2",
        f"--job-name={name}",
        "--partition=gpu",
        "--time=90",
        "--gres=gpu:1",
        "--gres=gpu:2",
        "--account='my lab'",
        "--signal=USR2@90",
        "--requeue",
    ):
        assert f"#SBATCH {line}\n" in scripts
    listed = json.loads((tmp_path / "out/.slurm/1.json").read_text())
    assert [one["task_file"] for one in listed] == [str(one.task.paths.task) for one in tasks[:2]]
    assert not list((tmp_path / "out").rglob("*.pkl"))


def test_arrays_are_no_longer_than_slurm_allows(
    tmp_path: Path, slurm: Pretence, executor: SlurmExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_executor, "MAX_JOBS_OF_AN_ARRAY", 2)
    jobs = executor.submit([assignment(tmp_path, fold) for fold in (1, 2, 3)])
    assert [job.id for job in jobs] == ["7_0", "7_1", "8_0"]


def test_the_launchers_own_job_is_not_passed_on(
    tmp_path: Path, slurm: Pretence, executor: SlurmExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CONF", "conf")
    slurm.write("sbatch", 'env >"$here/environment"' + SUBMITTED)
    executor.submit([assignment(tmp_path)])
    environment = (slurm.folder / "environment").read_text()
    assert "SLURM_MEM_PER_CPU" not in environment
    assert "SLURM_CONF=conf" in environment
    assert os.environ["SLURM_MEM_PER_CPU"] == "100"


def submitted(tmp_path: Path, executor: SlurmExecutor) -> SlurmJob:
    (job,) = executor.submit([assignment(tmp_path)])
    assert job.id == "7_0"
    return job


def test_states_follow_the_queue_and_the_end_follows_the_files(
    tmp_path: Path, slurm: Pretence, executor: SlurmExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submitted(tmp_path, executor)
    for text, state in (
        ("PENDING|Priority", JobState.QUEUED),
        ("RUNNING|None", JobState.RUNNING),
        ("COMPLETING|None", JobState.RUNNING),
        ("PENDING|BeginTime", JobState.QUEUED),  # requeued
        ("RUNNING|None", JobState.RUNNING),
    ):
        slurm.show(job7_0=text)
        assert job.poll() is state
    slurm.show(job7_0="COMPLETED|None")
    monkeypatch.setattr(slurm_executor, "SECONDS_FOR_LATE_FILES", 60.0)
    assert job.poll() is JobState.RUNNING  # the file may come yet
    monkeypatch.setattr(slurm_executor, "finished", lambda task: object())
    assert job.poll() is JobState.DONE


def test_a_failure_of_the_worker_counts_at_once(
    tmp_path: Path, slurm: Pretence, executor: SlurmExecutor
) -> None:
    task = fold_task(tmp_path)
    write_record(task.paths.failure, FoldFailure(task.identity, 1, "crash", "of the time before"))
    job = submitted(tmp_path, executor)
    slurm.show(job7_0="RUNNING|None")
    assert job.poll() is JobState.RUNNING
    write_record(task.paths.failure, FoldFailure(task.identity, 1, "diverged", "NaN"))
    assert job.poll() is JobState.FAILED
    assert job.failure is not None
    assert job.failure.kind == "diverged"


def test_a_job_whose_task_file_was_lost_in_the_queue_costs_no_attempt(
    tmp_path: Path, slurm: Pretence, executor: SlurmExecutor
) -> None:
    job = submitted(tmp_path, executor)
    job.assignment.task.paths.task.write_text("{")
    slurm.show(job7_0="FAILED|NonZeroExitCode")
    assert job.poll() is JobState.FAILED
    assert job.failure is not None
    assert job.failure.kind == "damaged file"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("CANCELLED|None", "crash", "Slurm job 7_0 ended as CANCELLED without a result"),
        ("NODE_FAIL|NodeDown|n9", "crash", r"NODE_FAIL \(NodeDown\) on n9"),
        ("OUT_OF_MEMORY|OutOfMemory", "out of memory", "--slurm-option mem="),
        ("TIMEOUT|TimeLimit", "crash", "--time"),
        ("COMPLETED|None", "crash", "without a result"),
        ("", "crash", "no longer known to Slurm"),
        ("PENDING|launch failed requeued held", "crash", "cannot be started: launch failed"),
    ],
)
def test_jobs_that_end_without_a_word(
    text: str, kind: str, words: str, tmp_path: Path, slurm: Pretence, executor: SlurmExecutor
) -> None:
    job = submitted(tmp_path, executor)
    job.assignment.log_file.write_text("the last line\n")
    (tmp_path / "out/.slurm/7_0.out").write_text("slurmstepd: killed\n")
    if text:
        slurm.show(job7_0=text.removesuffix("|n9"))
        if text.endswith("|n9"):
            (slurm.folder / "queue").write_text(f"7_0|{text}\n")
    assert job.poll() is JobState.FAILED
    failure = read_record(FoldFailure, job.assignment.task.paths.failure)
    assert failure == job.failure
    assert failure is not None
    assert failure.kind == kind
    assert re.search(words, failure.reason)
    if "cannot" in failure.reason:
        slurm.show()
        executor.close()
        assert "--quiet 7_0" in slurm.calls("scancel")
    else:
        assert failure.detail.splitlines() == ["the last line", "slurmstepd: killed"]


def test_stopping_cancels_what_waits_and_asks_what_runs(
    tmp_path: Path, slurm: Pretence, executor: SlurmExecutor
) -> None:
    waiting, running, late = executor.submit([assignment(tmp_path, fold) for fold in (1, 2, 3)])
    slurm.show(job7_0="PENDING|Priority", job7_1="RUNNING|None", job7_2="RUNNING|None")
    for job in (waiting, running, late):
        job.stop()
    assert late.poll() is JobState.RUNNING
    wait_for(lambda: len(slurm.calls("scancel")) == 2)
    assert sorted(slurm.calls("scancel")) == [
        "--quiet --signal=INT 7_1 7_2",
        "--quiet --state=PENDING 7_0",
    ]
    slurm.show(job7_0="CANCELLED|None", job7_1="FAILED|NonZeroExitCode", job7_2="COMPLETED|None")
    assert waiting.poll() is JobState.INTERRUPTED
    assert running.poll() is JobState.INTERRUPTED
    assert late.poll() is JobState.INTERRUPTED
    assert waiting.failure is None


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_closing_leaves_no_job_and_no_files(
    tmp_path: Path, slurm: Pretence, executor: SlurmExecutor, said: Said
) -> None:
    executor.close()
    assert slurm.calls("scancel") == []  # nothing was begun: these could be another launcher's
    submitted(tmp_path, executor)
    slurm.show(job7_0="RUNNING|None")
    slurm.write("scancel", ': >"$here/queue"')
    executor.close()
    name = job_name(tmp_path / "out")
    assert slurm.calls("scancel") == [f"--quiet --user={os.getuid()} --name={name}"]
    assert not (tmp_path / "out/.slurm").exists()
    assert said == []


def test_jobs_that_would_not_go_are_named(
    tmp_path: Path,
    slurm: Pretence,
    executor: SlurmExecutor,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submitted(tmp_path, executor)
    slurm.show(job7_0="COMPLETING|None")
    monkeypatch.setattr(slurm_executor, "SECONDS_TO_EMPTY", 2.0)
    executor.close()
    assert said == [
        f"Slurm still shows jobs of this run: squeue --name={job_name(tmp_path / 'out')}"
    ]
    assert len(slurm.calls("scancel")) > 1


def test_a_refusal_is_a_sentence_first_and_a_failure_later(
    tmp_path: Path, slurm: Pretence, executor: SlurmExecutor
) -> None:
    refusal = 'echo "sbatch: error: invalid partition specified: gpu" >&2; exit 1'
    slurm.write("sbatch", refusal)
    with pytest.raises(UserError, match="Slurm did not accept the jobs: invalid partition .*gpu"):
        executor.submit([assignment(tmp_path)])
    slurm.write("sbatch", SUBMITTED)
    executor.submit([assignment(tmp_path)])
    slurm.write("sbatch", refusal)
    (job,) = executor.submit([assignment(tmp_path, 2)])
    assert job.poll() is JobState.FAILED
    assert job.failure is not None
    assert job.failure.kind == "crash"


def test_jobs_of_an_earlier_launcher_are_cancelled_before_the_first_submission(
    tmp_path: Path, slurm: Pretence, executor: SlurmExecutor, said: Said
) -> None:
    slurm.show(job5_0="RUNNING|None", job5_1="COMPLETED|None")
    slurm.write("scancel", ': >"$here/queue"')
    executor.submit([assignment(tmp_path)])
    executor.submit([assignment(tmp_path, 2)])
    name = job_name(tmp_path / "out")
    assert slurm.calls("scancel") == [f"--quiet --user={os.getuid()} --name={name}"]
    assert said == ["Cancelling 1 Slurm job(s) of an earlier launcher."]


def test_squeue_is_asked_seldom(slurm: Pretence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_executor, "MIN_PAUSE", 5.0)
    monkeypatch.setattr(slurm_executor, "MAX_PAUSE", 30.0)
    queue = SlurmQueue("name", print)
    for _ in range(50):
        queue.update()
    assert len(slurm.calls("squeue")) == 1
    now = [time.monotonic()]
    monkeypatch.setattr(slurm_executor.time, "monotonic", lambda: now[0])
    queue = SlurmQueue("name", print)
    for _ in range(36000):  # an hour in which nothing happens
        now[0] += 0.1
        queue.update()
    assert 110 <= len(slurm.calls("squeue")) <= 150


def test_silence_and_strange_reasons_are_told_once(
    slurm: Pretence, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = SlurmQueue("name", said.append)
    slurm.show(job1="PENDING|PartitionTimeLimit", job2="PENDING|Resources")
    for _ in range(3):
        queue.update()
    assert said == ["Jobs wait in Slurm's queue: PartitionTimeLimit"]
    before = queue.jobs
    slurm.write("squeue", "echo no connection >&2; exit 1")
    queue.update()
    monkeypatch.setattr(slurm_executor, "SECONDS_OF_SILENCE", -1.0)
    for _ in range(3):
        queue.update()
    assert queue.jobs == before
    assert len(said) == 2
    assert "does not respond (no connection)" in said[1]


# --- the program of a job


@pytest.fixture
def node(
    tmp_path: Path, slurm: Pretence, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "CUDA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield monkeypatch
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run_job(
    tmp_path: Path, node: pytest.MonkeyPatch, *numbers: int, checkpoint: bool = False
) -> int:
    """Run a job whose training is interrupted by these signals, or is done without any."""
    task = fold_task(tmp_path)

    def train(task: FoldTask, place: TaskPlacement, stop: object) -> TaskReport:
        assert not stop
        for number in numbers:
            os.kill(os.getpid(), number)
        assert bool(stop) == bool(numbers)
        if checkpoint:
            task.paths.checkpoint_latest.parent.mkdir(parents=True, exist_ok=True)
            task.paths.checkpoint_latest.write_text("state")
        return TaskReport("interrupted" if numbers else "done")

    node.setattr(slurm_job, "run_task", train)
    return slurm_job.run(task, tmp_path / "logs/a.log", tmp_path / "1_1.runs")


def failure_of(tmp_path: Path) -> FoldFailure:
    failure = read_record(FoldFailure, fold_task(tmp_path).paths.failure)
    assert failure is not None
    return failure


@pytest.mark.parametrize(
    ("numbers", "requeues"),
    [
        ([signal.SIGUSR2], True),
        ([signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2], True),
        ([signal.SIGTERM], False),  # Slurm requeues it, or wants it to end
        ([signal.SIGINT], False),
        ([signal.SIGUSR2, signal.SIGINT], False),  # the launcher has the last word
    ],
)
def test_who_asks_decides_whether_a_job_comes_back(
    numbers: list[int], requeues: bool, tmp_path: Path, slurm: Pretence, node: pytest.MonkeyPatch
) -> None:
    assert run_job(tmp_path, node, *numbers) == 130
    assert slurm.calls("scontrol") == (["requeue 7_1"] if requeues else [])
    assert not fold_task(tmp_path).paths.failure.exists()


def test_a_job_that_gets_nowhere_does_not_come_back_for_ever(
    tmp_path: Path, slurm: Pretence, node: pytest.MonkeyPatch
) -> None:
    most = slurm_job.MAX_FRUITLESS_RUNS
    for _ in range(most - 1):
        assert run_job(tmp_path, node, signal.SIGUSR2) == 130
    assert run_job(tmp_path, node, signal.SIGUSR2, checkpoint=True) == 130
    for _ in range(most - 1):
        assert run_job(tmp_path, node, signal.SIGUSR2) == 130
    assert run_job(tmp_path, node, signal.SIGUSR2) == 1
    assert slurm.calls("scontrol") == ["requeue 7_1"] * (2 * most - 1)
    assert f"{most} times in a row" in failure_of(tmp_path).reason
    assert "give it more --time" in failure_of(tmp_path).reason


def test_a_job_that_cannot_be_requeued_says_so(
    tmp_path: Path, slurm: Pretence, node: pytest.MonkeyPatch
) -> None:
    slurm.write("scontrol", "echo Access denied >&2; exit 1")
    assert run_job(tmp_path, node, signal.SIGUSR2) == 1
    assert failure_of(tmp_path).reason.endswith("put back into the queue: Access denied")
    assert len(slurm.calls("scontrol")) == slurm_job.REQUEUE_ATTEMPTS


def test_a_job_trains_on_the_gpu_that_slurm_gave_it(node: pytest.MonkeyPatch) -> None:
    gpus = {"CUDA_VISIBLE_DEVICES": "0", "SLURM_STEP_GPUS": "3", "SLURM_CPUS_ON_NODE": "6"}
    node.setattr(slurm_job, "find_devices", lambda *_, **__: ((Device("0", "GPU-a", "A"),), []))
    assert place_of(gpus, Path("log")) == (TaskPlacement("cuda:0", "3", 6, "log"), "")
    cpus = {"SLURM_CPUS_ON_NODE": "6", "SLURM_CPUS_PER_TASK": "2"}
    assert place_of(cpus, Path("log")) == (TaskPlacement("cpu", "slurm", 2, "log"), "")


def test_a_gpu_that_does_not_work_is_no_reason_to_train_on_the_cpu(
    tmp_path: Path, node: pytest.MonkeyPatch
) -> None:
    node.setenv("CUDA_VISIBLE_DEVICES", "0")
    node.setattr(slurm_job, "find_devices", lambda *_, **__: ((Device("cpu", "", "CPU"),), []))
    node.setattr(slurm_job, "has_nvidia_library", lambda: True)
    assert run_job(tmp_path, node) == 1
    assert failure_of(tmp_path).kind == "crash"
    assert "but its driver finds none" in failure_of(tmp_path).reason
    node.setattr(slurm_job, "has_nvidia_library", lambda: False)
    assert run_job(tmp_path, node) == 0
    assert "training runs on the CPU" in (tmp_path / "logs/a.log").read_text()


def test_the_program_finds_its_task_by_its_index(tmp_path: Path, node: pytest.MonkeyPatch) -> None:
    ran = []
    task = fold_task(tmp_path, 2)
    write_task(task)
    tasks = [{"task_file": "none", "log_file": "none"}]
    tasks.append({"task_file": str(task.paths.task), "log_file": "b.log"})
    (tmp_path / "1.json").write_text(json.dumps(tasks))
    node.setattr(slurm_job, "run", lambda *arguments: ran.append(arguments) or 0)
    node.setattr("sys.argv", ["slurm_job", str(tmp_path / "1.json")])
    assert slurm_job.main() == 0
    assert ran == [(task, Path("b.log"), tmp_path / "1_1.runs")]


def test_a_task_of_another_numerics_version_is_not_trained(tmp_path: Path) -> None:
    task = fold_task(tmp_path)
    task = replace(task, identity=replace(task.identity, numerics=NUMERICS_VERSION + 1))
    place = TaskPlacement("cpu", "cpu", 1, "log")
    report = worker.carry_out(task, place, io.StringIO(), worker.StopRequest())
    assert report.failure is not None
    assert report.failure.kind == "user error"
    assert "numerics version" in report.failure.reason


def test_an_element_of_an_array_is_never_called_like_the_array() -> None:
    array = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    assert job_id(array) == "7_2"
