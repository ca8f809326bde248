"""`demo`: an empty folder becomes results, once; other folders are left alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clip_pkg.cli import main
from support.tiny import make_folder


def test_it_writes_trains_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "clip_pkg_demo/train_clip_config.json"
    monkeypatch.chdir(tmp_path)

    def fewer_images(folder: Path) -> int:
        """The demo trains for a minute; a user who edited its list gets that list."""
        make_folder(folder, dict.fromkeys(("zero", "one"), 6))
        small = {
            "resnet10t": "test_resnet",
            '"epochs": 5': '"epochs": 1',
            '"n_splits": 5': '"n_splits": 2',
        }
        text = re.sub(
            "|".join(map(re.escape, small)), lambda found: small[found[0]], config.read_text()
        )
        config.write_text(text.replace("clip:ViT-S-32-alt:scratch", "prompts"))
        return 12

    monkeypatch.setattr("clip_pkg.study.demo.make_demo", fewer_images)
    assert main(["demo"]) == 0
    shown = capsys.readouterr().out
    assert "--config-file clip_pkg_demo/train_clip_config.json --multi-config" in shown
    assert "Next:\n" in shown
    assert (tmp_path / "clip_pkg_demo/results/superclip_digits/cv_summary.json").exists()
    assert main(["demo", "clip_pkg_demo"]) == 0
    assert "4 of 4 folds are already finished." in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip_pkg_demo"]


def test_a_folder_with_other_contents_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert main(["demo", str(tmp_path)]) == 2
    assert "holds no demo; name a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
