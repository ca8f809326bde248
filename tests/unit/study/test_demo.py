"""The demo folder: the digits of scikit-learn, long-tailed, whole or not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from clip_pkg.base.errors import UserError
from clip_pkg.study import demo

CLASS_TEXTS = Path(__file__).resolve().parents[3] / "class_texts" / "class_texts_digits.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "below" / "digits"
    demo.make_demo(folder)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_counts_fall_from_class_to_class(folder: Path) -> None:
    found = [len(list((folder / name).iterdir())) for name in demo.DIGIT_NAMES]
    assert found[0] == 170
    assert found[-1] == 20
    assert found == sorted(found, reverse=True)
    assert 700 <= sum(found) <= 800
    assert sorted(path.name for path in folder.iterdir()) == sorted(demo.DIGIT_NAMES)


def test_images_are_the_digits_they_are_filed_under(folder: Path) -> None:
    digits = load_digits()
    for digit, name in enumerate(demo.DIGIT_NAMES):
        for path in (folder / name).iterdir():
            position = int(path.stem.removeprefix("digit_"))
            assert digits.target[position] == digit
            with Image.open(path) as image:
                small = np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=float)
            original = digits.images[position] * 255 / 16
            assert np.corrcoef(small.ravel(), original.ravel())[0, 1] > 0.95


def test_the_same_files_come_out_again(folder: Path, tmp_path: Path) -> None:
    demo.make_demo(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_others_may_read_it(folder: Path) -> None:
    assert folder.stat().st_mode & 0o555 == 0o555


def test_every_class_has_its_texts() -> None:
    texts = json.loads(CLASS_TEXTS.read_text(encoding="utf-8"))
    assert set(texts) == set(demo.DIGIT_NAMES)
    prompts = [prompt for prompts in texts.values() for prompt in prompts]
    assert len(set(prompts)) == len(prompts)


def test_the_command_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([str(tmp_path / "digits")]) == 0
    said = capsys.readouterr().out
    assert "729 images of 10 digits" in said
    assert "170" in said
    assert "20" in said


def test_an_existing_folder_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    assert demo.main([str(tmp_path)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_demo_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_folder: Path) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "write_digits", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo.make_demo(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/digits: cannot be written"):
        demo.make_demo(tmp_path / "file" / "digits")
