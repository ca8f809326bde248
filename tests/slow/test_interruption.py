"""Kills, Ctrl-C and restarts: the end is the same as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.outcomes import SECONDS_TO_END, alive, check_readable, outcome
from support.tiny import TINY, command, program_environment

pytestmark = pytest.mark.slow  # all of them together

KILLS = int(os.environ.get("CLIP_PKG_KILLS", "2"))  # more for a longer look


def words(images: Path, root: Path, output: str) -> Sequence[str]:
    configs = [
        {**TINY, "name": "a", "epochs": 3, "n_splits": 2, "use_superclip_loss": True},
        {**TINY, "name": "b", "epochs": 3, "n_splits": 2, "use_weighted_sampling": True},
    ]
    (root / "configs.json").write_text(json.dumps(configs), encoding="utf-8")
    where = ["--data-dir", images, "--output-dir", root / output, "--log-dir", root / "logs"]
    return command(*where, "--config-file", root / "configs.json", "--multi-config")


def start(arguments: Sequence[str], root: Path) -> subprocess.Popen[bytes]:
    with (root / "stdout.txt").open("ab") as stream:
        return subprocess.Popen(
            arguments, cwd=root, env=program_environment(), stdout=stream, stderr=stream
        )


@pytest.fixture(scope="module")
def undisturbed(
    images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], float]:
    root = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    assert start(words(images, root, "out"), root).wait() == 0, (root / "stdout.txt").read_text()
    return outcome(root / "out"), time.monotonic() - began


def test_killed_at_random_moments_and_started_again(
    images: Path, tmp_path: Path, undisturbed: tuple[dict[str, Any], float]
) -> None:
    wanted, seconds = undisturbed
    moments = random.Random(os.environ.get("CLIP_PKG_KILL_SEED", "7"))
    for _ in range(KILLS):
        process = start(words(images, tmp_path, "out"), tmp_path)
        try:
            process.wait(moments.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        check_readable(tmp_path / "out")
    assert start(words(images, tmp_path, "out"), tmp_path).wait() == 0
    assert outcome(tmp_path / "out") == wanted
    for config in ("a", "b"):
        for name in (1, 2):
            history = json.loads((tmp_path / f"out/{config}/fold_{name}/history.json").read_text())
            assert {len(column) for column in history.values()} == {3}


@pytest.mark.parametrize("repetition", range((KILLS + 1) // 2))
def test_workers_end_soon_after_the_launcher_is_killed(
    images: Path, tmp_path: Path, repetition: int
) -> None:
    process = start(words(images, tmp_path, "out"), tmp_path)
    deadline = time.monotonic() + 300  # for busy machines
    while not (children := psutil.Process(process.pid).children(recursive=True)) or not any(
        "clip_pkg.training.worker" in child.cmdline() for child in children
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1 + repetition % 8)  # importing, preparing, training
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert alive(children, SECONDS_TO_END) == []


def test_ctrl_c_checkpoints_says_how_to_go_on_and_the_rest_is_done_later(
    images: Path, tmp_path: Path, undisturbed: tuple[dict[str, Any], float]
) -> None:
    wanted, _ = undisturbed
    process = start(words(images, tmp_path, "out"), tmp_path)
    deadline = time.monotonic() + 300  # for busy machines
    while not list(tmp_path.glob("out/a/fold_1/history.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert alive(children, 1) == []
    assert "Run the same command again" in (tmp_path / "stdout.txt").read_text()
    assert start(words(images, tmp_path, "out"), tmp_path).wait() == 0
    assert outcome(tmp_path / "out") == wanted


def test_two_launchers_on_one_folder(images: Path, tmp_path: Path) -> None:
    first = start(words(images, tmp_path, "out"), tmp_path)
    deadline = time.monotonic() + 300  # for busy machines
    while not list(tmp_path.glob("out/.launcher.holder")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = subprocess.run(
        words(images, tmp_path, "out"),
        cwd=tmp_path,
        env=program_environment(),
        capture_output=True,
        text=True,
    )
    first.send_signal(signal.SIGINT)
    first.wait(timeout=30)
    assert second.returncode == 2
    assert f"in use by process {first.pid}" in second.stderr
