"""The Python of the page on using models runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from support.tiny import CHECKOUT

PAGE = (CHECKOUT / "docs/using_models.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", PAGE)


@pytest.fixture
def here(run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which the page's names mean something small."""
    shutil.copytree(run / "folds", tmp_path / "checkpoints/clip_models/NAME")
    shutil.copytree(images, tmp_path / "DATA_DIR")
    shutil.copytree(images / "red", tmp_path / "DIR")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_its_python_runs() -> None:
    (source,) = (source for source in blocks("python") if "explanations" in source)
    names: dict[str, object] = {}
    exec(source, names)
    assert names["features"].shape == (30, 16)  # type: ignore[attr-defined]
    assert len(names["batch"].maps) <= 14  # type: ignore[attr-defined]
