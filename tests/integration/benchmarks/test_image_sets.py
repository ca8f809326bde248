"""Images for trainings: complete classes, one division for all, nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import image_sets
from benchmarks.image_sets import draw_radiograph, make_image_set
from support.tiny import make_folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("multiple", [1, 8])
def test_a_folder_is_cut_down_and_divided(tmp_path: Path, multiple: int) -> None:
    given = make_folder(tmp_path / "given", {"many": 40, "some": 12, "few": 5})
    made = make_image_set(given, 30, tmp_path / "made", train_multiple=multiple)
    train, val = files(made.divided / "train"), files(made.divided / "val")
    assert train | val == files(made.folder)
    assert not train & val
    assert (made.n_train, made.n_val) == (len(train), len(val))
    assert made.n_train % multiple == 0
    assert {path.split("/")[0] for path in val} == {"many", "some", "few"}
    assert sum(path.startswith("few/") for path in train | val) == 5
    assert json.loads(made.splits_file.read_text())["folds"] == [{"val": sorted(val, key=order)}]
    assert made.majority == pytest.approx(
        100 * sum(path.startswith("many/") for path in val) / len(val)
    )
    contents = [(made.folder / path).read_bytes() for path in train | val]
    assert len(set(contents)) == made.size
    assert "given" in made.described
    assert str(tmp_path) not in made.described


def order(path: str) -> str:
    return path.split("/")[1]


def test_more_images_than_there_are(tmp_path: Path) -> None:
    given = make_folder(tmp_path / "given", {"a": 7, "b": 5})
    assert make_image_set(given, 1000, tmp_path / "made").size == 12


def test_drawn_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = draw_radiograph(1, 2)
    assert first.mode == "L"
    assert all(500 <= side <= 1000 for side in first.size)
    assert np.array_equal(first, draw_radiograph(1, 2))
    monkeypatch.setattr(image_sets, "SIDES", (60, 90))
    made = make_image_set(None, 60, tmp_path / "made")
    assert len(list(made.folder.iterdir())) == len(image_sets.SHARES)
    assert abs(made.size - 60) <= len(image_sets.SHARES)
