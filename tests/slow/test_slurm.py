"""Folds as jobs of a real Slurm: numbers as here, whatever happens to jobs and launcher."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from clip_pkg.scheduling.ledger import read_ledger
from clip_pkg.study.progress import read_progress
from support.outcomes import outcome
from support.slurm_cluster import DEVICES, Interval, SlurmCluster, slurm_cluster, why_not
from support.tiny import TINY, command, one_core, program_environment

pytestmark = pytest.mark.slow
RESUMED = "Resumed after epoch"
PATIENCE = 600  # seconds; importing torch takes many on a busy machine
ON_SLURM = (
    *("--executor", "slurm", "--partition", "main", "--time", "00:20:00", "--gres", "gpu:1"),
    *("--slurm-option", "cpus-per-task=1"),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with slurm_cluster() as running:
        yield running
    root = str(running.root)
    commands = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
    assert [words for words in commands if root in " ".join(words)] == []


@dataclass
class Launcher:
    """`train_clip.py` in a folder of its own, as often as it is started."""

    root: Path
    words: Sequence[str]
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]]

    def start(self, *more: str, **options: Any) -> subprocess.Popen[bytes]:
        with (self.root / "stdout.txt").open("ab") as stream:
            process = subprocess.Popen(
                [*self.words, *more],
                cwd=self.root,
                env=self.environment,
                stdout=stream,
                stderr=stream,
                **options,
            )
        self.processes.append(process)
        return process

    @property
    def output(self) -> str:
        return (self.root / "stdout.txt").read_text(encoding="utf-8")

    def log(self, config: str, fold: int) -> str:
        paths = sorted((self.root / "logs").glob(f"{config}_slurm_fold{fold}_*.log"))
        return "".join(path.read_text(encoding="utf-8") for path in paths)


Launch = Callable[..., Launcher]


@pytest.fixture
def launch(images: Path, tmp_path: Path, cluster: SlurmCluster) -> Iterator[Launch]:
    processes: list[subprocess.Popen[bytes]] = []

    def make(*configs: dict[str, Any], output: str) -> Launcher:
        root = tmp_path / output
        root.mkdir()
        (root / "configs.json").write_text(json.dumps([{**TINY, **one} for one in configs]))
        where = ["--data-dir", images, "--output-dir", root / "out", "--log-dir", root / "logs"]
        words = command(*where, "--config-file", root / "configs.json", "--multi-config")
        return Launcher(root, words, {**program_environment(), **cluster.environment}, processes)

    yield make
    for process in processes:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], Any], launcher: Launcher) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, launcher.output
        time.sleep(0.05)


def epochs(launcher: Launcher, config: str, fold: int) -> int:
    path = launcher.root / f"out/{config}/fold_{fold}/history.json"
    return len(json.loads(path.read_text())["val_loss"]) if path.exists() else 0


def at_once(intervals: Sequence[Interval], moment: float) -> int:
    return sum(1 for one in intervals if one.begin <= moment < one.end)


def test_requeued_and_preempted_folds_give_the_numbers_of_a_local_run(
    launch: Launch, cluster: SlurmCluster
) -> None:
    configs = [{"name": name, "epochs": 40, "n_splits": 3} for name in "ab"]
    configs[1]["use_weighted_sampling"] = True
    remote = launch(*configs, output="remote")
    process = remote.start(*ON_SLURM)
    wait_for(lambda: epochs(remote, "a", 1) and epochs(remote, "a", 2), remote)
    jobs = {
        (record.config, record.fold): record.process.removeprefix("Slurm job ")
        for record in read_ledger(remote.root / "out/ledger.jsonl").tasks.values()
    }
    progress = read_progress(remote.root / "out/a/fold_2/progress.json")
    assert progress is not None
    os.kill(progress.pid, signal.SIGUSR2)  # as Slurm does before the end of the job's time
    cluster.ask("scontrol", "requeue", jobs["a", 1])
    local = launch(*configs, output="local")
    core = one_core()  # one thread, as Slurm's jobs have here
    alone = local.start("--executor", "inline", preexec_fn=lambda: os.sched_setaffinity(0, core))
    assert alone.wait(PATIENCE) == 0
    assert process.wait(PATIENCE) == 0, remote.output

    assert outcome(remote.root / "out") == outcome(local.root / "out")
    assert len({jobs["a", 1].partition("_")[0], jobs["a", 2].partition("_")[0]}) == 1  # one array
    for fold, number in ((1, "SIGTERM"), (2, "SIGUSR2")):
        log = remote.log("a", fold)
        assert f"Interrupted by {number}" in log
        assert len(re.findall(rf"^Slurm job {jobs['a', fold]} on ", log, re.MULTILINE)) == 2
        assert "this node has no NVIDIA driver" in log
    assert RESUMED in remote.log("a", 1) + remote.log("a", 2)
    assert all(
        one.attempts == 1 for one in read_ledger(remote.root / "out/ledger.jsonl").tasks.values()
    )

    intervals = cluster.intervals()
    assert len(intervals) == 8  # six folds, two of them twice
    assert all(len(one.gpus) == 1 for one in intervals)
    assert max(at_once(intervals, one.begin) for one in intervals) == len(DEVICES)
    for gpu in {one.gpus for one in intervals}:
        users = sorted((one.begin, one.end) for one in intervals if one.gpus == gpu)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(users))
    assert cluster.queue() == []
    assert not (remote.root / "out/.slurm").exists()


def test_jobs_outlive_their_launcher_and_the_next_one_resumes_their_folds(
    launch: Launch, cluster: SlurmCluster
) -> None:
    launcher = launch({"name": "c", "epochs": 5000, "n_splits": 2}, output="orphaned")
    first = launcher.start(*ON_SLURM)
    wait_for(lambda: epochs(launcher, "c", 1) and epochs(launcher, "c", 2), launcher)
    first.kill()
    first.wait()
    jobs = sorted(cluster.queue("--states=RUNNING"))
    assert len(jobs) == 2
    done = epochs(launcher, "c", 1)
    wait_for(lambda: epochs(launcher, "c", 1) > done, launcher)  # without a launcher

    second = launcher.start(*ON_SLURM)
    wait_for(lambda: "Cancelling 2 Slurm job(s)" in launcher.output, launcher)
    wait_for(lambda: len(set(cluster.queue()) - set(jobs)) == 2, launcher)
    assert not set(cluster.queue()) & set(jobs)  # each fold has one job
    wait_for(lambda: launcher.log("c", 1).count(RESUMED) == 1, launcher)
    record = read_ledger(launcher.root / "out/ledger.jsonl")
    job = record.tasks["c", 1].process.removeprefix("Slurm job ")
    cluster.ask("scancel", job)
    wait_for(lambda: "(attempt 2)" in launcher.output, launcher)
    assert re.search(rf"FAILED \(crash\): Slurm job {job} ended as CANCELLED", launcher.output)
    wait_for(lambda: launcher.log("c", 1).count(RESUMED) == 2, launcher)

    second.send_signal(signal.SIGINT)
    assert second.wait(PATIENCE) == 130
    assert cluster.queue() == []
    record = read_ledger(launcher.root / "out/ledger.jsonl")
    assert {one.state for one in record.tasks.values()} == {"interrupted"}
    assert "Run the same command again" in launcher.output
