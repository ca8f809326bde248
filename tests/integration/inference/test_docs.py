"""The page on using models is true: its commands and its Python run."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.tiny import CHECKOUT

PAGE = (CHECKOUT / "docs/using_models.md").read_text(encoding="utf-8")
COMMANDS = ("predict", "explain", "embed")


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", PAGE)


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line)[2:] for line in lines if line]
    return [words for words in found if words[0] in COMMANDS]


@pytest.fixture
def here(run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which the page's names mean something small."""
    shutil.copytree(run / "folds", tmp_path / "checkpoints/clip_models/NAME")
    shutil.copytree(images, tmp_path / "DATA_DIR")
    shutil.copytree(images / "red", tmp_path / "DIR")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words)[:60])
def test_its_commands_run(words: list[str], use: Callable[..., str]) -> None:
    words = ["red" if word == "Wear" else word for word in words]
    use(*words)
    assert Path(words[words.index("--output") + 1]).exists()


@pytest.mark.usefixtures("here")
def test_its_python_runs() -> None:
    (source,) = (source for source in blocks("python") if "explanations" in source)
    names: dict[str, object] = {}
    exec(source, names)
    assert names["features"].shape == (30, 16)  # type: ignore[attr-defined]
    assert len(names["batch"].maps) <= 14  # type: ignore[attr-defined]


def test_every_command_is_there() -> None:
    assert {words[0] for words in commands()} == set(COMMANDS)
    assert len(commands()) == 5
