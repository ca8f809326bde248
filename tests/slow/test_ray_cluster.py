"""A real Ray cluster of two nodes on this machine, and what can happen to it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from clip_pkg.study.progress import read_progress
from support.outcomes import outcome
from support.tiny import TINY, command, program_environment

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs the extra ray")

MARK = "CLIP_PKG_TEST_CLUSTER"
EPOCHS = 12
CONFIGS = [
    {**TINY, "name": "a", "epochs": EPOCHS, "n_splits": 2, "use_superclip_loss": True},
    {**TINY, "name": "b", "epochs": EPOCHS, "n_splits": 2, "use_weighted_sampling": True},
]


@dataclass
class TwoNodes:
    """Nodes with a GPU each that exists on paper only; folds must do with the CPU."""

    cluster: Any
    second: Any
    mark: str

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def processes(self, word: str = "") -> list[psutil.Process]:
        """Those that descend from one with the mark, with `word` in their command line."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and word in str(process.cmdline()):
                    found.append(process)
        return found


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # tests that run beside would starve them
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray refuses GPUs that it hides
    folder = tempfile.mkdtemp(prefix="ray-")  # not tmp_path: names of sockets must be short
    monkeypatch.setenv("RAY_TMPDIR", folder)
    size = {
        "num_cpus": os.cpu_count(),
        "num_gpus": 1,
        "object_store_memory": 80 << 20,
        "include_dashboard": False,
    }
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=size)
    second = cluster.add_node(**size)
    monkeypatch.delenv(MARK)
    two = TwoNodes(cluster, second, mark)
    try:
        yield two
    finally:
        cluster.shutdown()
        wait_for(lambda: not two.processes())
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(condition: Callable[[], Any], seconds: float = 400) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def events(out: Path) -> list[dict[str, Any]]:
    lines = (out / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_ctrl_c_a_killed_launcher_and_a_lost_node_change_no_number(
    images: Path,
    tmp_path: Path,
    nodes: TwoNodes,
    write_configs: Callable[..., Path],
    train: Callable[..., str],
) -> None:
    configs = write_configs(*CONFIGS)
    out = tmp_path / "ray"
    words = ["--data-dir", images, "--output-dir", out, "--config-file", configs, "--multi-config"]
    words += ["--log-dir", tmp_path / "logs", "--executor", "ray", "--ray-address", nodes.address]

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "stdout.txt").open("ab") as stream:
            return subprocess.Popen(
                command(*words),
                cwd=tmp_path,
                env=program_environment(),
                stdout=stream,
                stderr=stream,
            )

    def checkpoints() -> list[Path]:
        return list(out.glob("*/fold_*/checkpoint_latest.pth"))

    process = start()
    wait_for(checkpoints)
    process.send_signal(signal.SIGINT)
    assert process.wait(200) == 130, (tmp_path / "stdout.txt").read_text()
    assert nodes.processes("clip_pkg.training.worker") == []

    process = start()
    wait_for(lambda: nodes.processes("clip_pkg.training.worker"))
    time.sleep(3)
    process.kill()
    process.wait()
    wait_for(lambda: not nodes.processes("clip_pkg.training.worker"), 20)

    process = start()
    node = nodes.second.node_id[:8]

    def fold_on_second_node() -> dict[str, Any] | None:
        """A fold that this launcher has running there, early, with a checkpoint."""
        latest: dict[tuple[str, int], dict[str, Any]] = {}
        is_ours = False
        for event in events(out):
            if event["event"] == "launched":
                is_ours = event["pid"] == process.pid
            elif is_ours and "fold" in event:
                latest[event["config"], event["fold"]] = event
        for event in latest.values():
            place = out / event["config"] / f"fold_{event['fold']}"
            progress = read_progress(place / "progress.json")
            if (
                event["event"] == "running"
                and node in event["process"]
                and (place / "checkpoint_latest.pth").exists()
                and progress is not None
                and progress.epoch <= EPOCHS / 2  # far enough from its end
            ):
                return event
        assert process.poll() is None, (tmp_path / "stdout.txt").read_text()
        return None

    lost = wait_for(fold_on_second_node)
    nodes.cluster.remove_node(nodes.second, allow_graceful=False)
    assert process.wait(900) == 0, (tmp_path / "stdout.txt").read_text()
    assert nodes.processes("clip_pkg.training.worker") == []

    story = [
        event
        for event in events(out)
        if (event.get("config"), event.get("fold")) == (lost["config"], lost["fold"])
        and event["time"] >= lost["time"]
    ]
    assert [event["event"] for event in story] == ["running", "queued", "running", "done"]
    assert {event["attempt"] for event in story} == {1}
    assert story[2]["process"] != story[0]["process"]
    log = Path(lost["log_file"])
    assert log.name.startswith(f"{lost['config']}_ray_fold{lost['fold']}_")
    text = log.read_text(encoding="utf-8")
    assert "Resumed after epoch" in text
    assert "Ray allocated a GPU" in text

    train("--config-file", configs, "--multi-config", output="local")
    assert outcome(out) == outcome(tmp_path / "local")
