"""One suite for all executors: the same JSON gives the same story and the same numbers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from clip_pkg.scheduling.ledger import RunRecord, read_ledger
from clip_pkg.study.tasks import FoldFailure, FoldTask, read_record, read_task
from support.disturbance import write_disturbance
from support.outcomes import SECONDS_TO_END, alive, check_readable, outcome
from support.slurm_cluster import slurm_cluster, why_not
from support.tiny import TINY, command, one_core, program_environment

pytestmark = pytest.mark.slow
CONFIGS = [
    {**TINY, "name": "a", "use_weighted_sampling": True},
    {**TINY, "name": "b", "use_superclip_loss": True},
]
SLURM = ("--partition", "main", "--time", "00:20:00", "--gres", "gpu:1")
FLAGS: Mapping[str, Sequence[str]] = {
    "inline": (),
    "process": (),
    "ray": ("--ray-address", "local", "--jobs-per-gpu", "2"),  # a core each
    "slurm": (*SLURM, "--slurm-option", "cpus-per-task=1"),
}
DISTURBANCE = """
if (task.name, task.fold) == ("b", 1):
    raise RuntimeError("this one always fails")
if (task.name, task.fold) == ("a", 2) and task.micro_batch_size is None:
    import torch
    raise torch.OutOfMemoryError("no memory is left for whole batches")
"""


@dataclass(frozen=True)
class Run:
    """What was shown, what was left, and who was still there at its end."""

    shown: str
    output: Path
    processes: Sequence[psutil.Process]

    @property
    def record(self) -> RunRecord:
        return read_ledger(self.output / "ledger.jsonl")


Launch = Callable[[str], Run]


def started_with(folder: str) -> list[psutil.Process]:
    """The processes, daemons too, whose folder for temporary files this is."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR") == folder:
                found.append(process)
    return found


@pytest.fixture(scope="module")
def slurm_environment() -> Iterator[Callable[[], Mapping[str, str]]]:
    """The environment of a cluster that is started once it is asked for."""
    running = slurm_cluster()

    @cache
    def start() -> Mapping[str, str]:
        return running.__enter__().environment

    yield start
    if start.cache_info().currsize:
        running.__exit__(None, None, None)


@pytest.fixture(scope="module")
def launch(
    tmp_path_factory: pytest.TempPathFactory,
    images: Path,
    slurm_environment: Callable[[], Mapping[str, str]],
) -> Launch:
    root = tmp_path_factory.mktemp("executors")
    (root / "configs.json").write_text(json.dumps(CONFIGS), encoding="utf-8")
    site = write_disturbance(root / "site", DISTURBANCE)
    core = one_core()  # sums of other numbers of threads differ

    @cache
    def run(executor: str) -> Run:
        output = root / executor
        words = [
            *("--data-dir", images, "--output-dir", output, "--log-dir", root / f"logs_{executor}"),
            *("--config-file", root / "configs.json", "--multi-config", "--retries", "1"),
            *("--executor", executor, *FLAGS[executor]),
        ]
        environment = program_environment()
        environment["PYTHONPATH"] = os.pathsep.join([str(site), environment["PYTHONPATH"]])
        # Names of sockets must be short.
        environment["TMPDIR"] = folder = tempfile.mkdtemp(prefix="ex-", dir="/tmp")
        if executor == "slurm":
            environment |= slurm_environment()
        with (root / f"{executor}.txt").open(
            "w+", encoding="utf-8"
        ) as stream:  # daemons keep pipes
            code = subprocess.run(
                command(*words),
                cwd=root,
                env=environment,
                stdout=stream,
                stderr=stream,
                preexec_fn=lambda: os.sched_setaffinity(0, core),
            ).returncode
            stream.seek(0)
            shown = stream.read()
        assert code == 1, shown
        left = started_with(folder)
        assert list(Path(folder).iterdir()) == []
        shutil.rmtree(folder)
        return Run(shown, output, left)

    return run


@pytest.fixture(params=sorted(FLAGS))
def run(request: pytest.FixtureRequest, launch: Launch) -> Run:
    executor: str = request.param
    if executor == "ray" and find_spec("ray") is None:
        pytest.skip("needs the extra ray")
    if executor == "slurm" and (reason := why_not()):
        pytest.skip(reason)
    return launch(executor)


def story(record: RunRecord, config: str, fold: int) -> tuple[str, int]:
    one = record.tasks[config, fold]
    return one.state, one.attempts


def test_the_ledger_tells_the_same_story(run: Run) -> None:
    stories = {key: story(run.record, *key) for key in run.record.tasks}
    assert stories == {
        ("a", 1): ("done", 1),
        ("a", 2): ("done", 2),
        ("b", 1): ("failed", 2),
        ("b", 2): ("done", 1),
    }


def test_another_attempt_is_of_the_changed_task(run: Run) -> None:
    task = read_task(run.output / "a/fold_2/task.json")
    assert isinstance(task, FoldTask)
    assert task.micro_batch_size == TINY["batch_size"] // 2
    summary = json.loads((run.output / "a/cv_summary.json").read_text(encoding="utf-8"))
    assert "micro-batches of 4" in json.dumps(summary)


def test_a_failing_fold_stops_no_other_and_says_why(run: Run) -> None:
    failure = read_record(FoldFailure, run.output / "b/fold_1/failure.json")
    assert failure is not None
    assert (failure.kind, failure.reason) == ("error", "this one always fails")
    assert "this one always fails" in run.shown
    assert Path(failure.log_file).read_text(encoding="utf-8").count("this one always fails") >= 2
    summary = json.loads((run.output / "b/cv_summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == {"fold_1": "failed", "fold_2": "done"}


def test_every_number_is_the_same(run: Run, launch: Launch) -> None:
    def numbers(output: Path) -> dict[str, Any]:
        return {k: v for k, v in outcome(output).items() if not k.startswith("logs")}

    check_readable(run.output)
    assert numbers(run.output) == numbers(launch("inline").output)


def test_nothing_lives_on(run: Run) -> None:
    assert alive(run.processes, SECONDS_TO_END) == []
