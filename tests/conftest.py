"""Fixtures that all tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from clip_pkg.cli import main
from support.tiny import TINY, Program, command, make_folder, program_environment


def pytest_configure() -> None:
    """Let children hear Ctrl-C even where a shell started the tests in the background.

    And make tables as wide everywhere as on a wide terminal.
    """
    os.environ["COLUMNS"] = "160"
    # Speed is measured in benchmarks/, never asserted.
    too_slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("any speed", deadline=None, suppress_health_check=too_slow)
    hypothesis.settings.load_profile("any speed")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, so that no process works alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures in 3 unequal classes."""
    return make_folder(tmp_path_factory.mktemp("images"), {"red": 14, "grün": 10, "blue sky": 6})


@pytest.fixture
def write_configs(tmp_path: Path) -> Callable[..., Path]:
    """Write a config list made of `TINY` with changes."""

    def write(*changes: Mapping[str, Any], name: str = "configs.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps([{**TINY, **change} for change in changes]), encoding="utf-8")
        return path

    return write


@pytest.fixture
def train(
    tmp_path: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Train in this very process, which has torch already; returns what was printed."""

    def run(
        *arguments: str | Path, data: Path = images, output: str = "out", check: int = 0
    ) -> str:
        monkeypatch.chdir(tmp_path)
        where = ["--data-dir", data, "--output-dir", tmp_path / output, "--executor", "inline"]
        code = main([str(word) for word in [*where, *arguments]])
        shown = capsys.readouterr()
        assert code == check, shown.out + shown.err
        return shown.out + shown.err

    return run


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Run `train_clip.py` in an empty working directory."""

    def run(*arguments: str | Path, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=program_environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if check is not None:
            assert done.returncode == check, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
