"""`validate`: the flags of training, and what would be trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_pkg.cli import main
from clip_pkg.launch import probe


@pytest.fixture(autouse=True)
def without_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of encoders has tests of its own and takes seconds."""
    monkeypatch.setattr(probe, "start_child_probe", lambda configs: probe.NoProbe())


def test_it_takes_the_flags_of_training_and_shows_texts_and_groups(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data-dir", str(images), "--output-dir", str(tmp_path / "out"), "--gpus", "0"]
    words += ["--n-splits", "2", "--group-pattern", r"(\d\d)\.png", "--text-template", "hue {}"]
    before = sorted(tmp_path.rglob("*"))
    assert main(["validate", *words]) == 0
    shown = capsys.readouterr().out
    assert "Groups: 14" in shown
    assert "  blue sky: hue blue sky\n" in shown
    assert sorted(tmp_path.rglob("*")) == before


def test_results_that_are_in_the_way_are_named(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out/mine").mkdir(parents=True)
    (tmp_path / "out/mine/notes.txt").touch()
    words = ["--data-dir", str(images), "--output-dir", str(tmp_path / "out"), "--name", "mine"]
    assert main(["validate", *words, "--n-splits", "2"]) == 2
    assert "mine" in capsys.readouterr().err
