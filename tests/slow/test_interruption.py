"""Kills, Ctrl-C and restarts: the end is the same as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

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


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300  # for busy machines
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_whenever_it_is_interrupted_the_end_is_the_same(
    images: Path, tmp_path: Path, train: Callable[..., str]
) -> None:
    def end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        """End the launcher in a way that its workers must notice."""
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        assert process.wait(timeout=20) == (130 if how is signal.SIGINT else -how)
        assert alive(children, 1 if how is signal.SIGINT else SECONDS_TO_END) == []
        check_readable(tmp_path / "out")

    process = start(words(images, tmp_path, "out"), tmp_path)
    wait_for((tmp_path / "out/a/fold_1/history.json").exists)
    end(process, signal.SIGINT)
    assert "Run the same command again" in (tmp_path / "stdout.txt").read_text()

    moments = random.Random(os.environ.get("CLIP_PKG_KILL_SEED", "7"))
    for _ in range(KILLS):
        process = start(words(images, tmp_path, "out"), tmp_path)
        time.sleep(moments.uniform(2, 15))  # it imports, prepares or trains
        if process.poll() is None:
            end(process, signal.SIGKILL)

    assert start(words(images, tmp_path, "out"), tmp_path).wait() == 0
    train("--config-file", tmp_path / "configs.json", "--multi-config", output="undisturbed")
    assert outcome(tmp_path / "out") == outcome(tmp_path / "undisturbed")
    for config in ("a", "b"):
        for name in (1, 2):
            history = json.loads((tmp_path / f"out/{config}/fold_{name}/history.json").read_text())
            assert {len(column) for column in history.values()} == {3}


def test_two_launchers_on_one_folder(images: Path, tmp_path: Path) -> None:
    first = start(words(images, tmp_path, "out"), tmp_path)
    wait_for((tmp_path / "out/.launcher.holder").exists)
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
