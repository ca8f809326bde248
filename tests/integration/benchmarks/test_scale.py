"""`benchmarks/scale.py`: goes through all phases, tells how they grow, leaves nothing behind."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import results, scale
from benchmarks.bitmaps import CLASSES, SIDE, make_images


def test_images_are_distinct_and_can_be_read(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    make_images(tmp_path / "images", 57, lambda *step: told.append(step))
    files = sorted((tmp_path / "images").glob("*/*.bmp"))
    assert len(files) == 57
    assert len({file.parent for file in files}) == CLASSES
    assert len({hashlib.sha256(file.read_bytes()).digest() for file in files}) == 57
    with Image.open(files[0]) as image:
        image.load()
        assert (image.size, image.mode) == ((SIDE, SIDE), "RGB")
    assert told == [(57, 57)]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_growth_is_the_exponent(exponent: float) -> None:
    sizes = [10, 100, 1000]
    assert scale.growth(sizes, [3 * n**exponent for n in sizes]) == pytest.approx(exponent)
    assert scale.growth([10], [1.0]) is None


def test_a_small_scale_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written_to = tmp_path / "RESULTS.md"
    monkeypatch.setattr(scale, "write_section", partial(results.write_section, path=written_to))
    scale.main(["--sizes", "300", "--place", str(tmp_path), "--write"])
    written = results.section(written_to.read_text(encoding="utf-8"), "scale")
    assert written is not None
    lines = written.splitlines()
    assert "| phase | 300 | growth |" in lines
    for phase in ("find copies, audit", "5 folds", "build the store", "the same without a store"):
        assert any(line.startswith(f"| {phase} | ") for line in lines), phase
    assert any(line.startswith("| 300 | 8 px | 57.7 kB | ") for line in lines)
    assert list(tmp_path.iterdir()) == [written_to]
    assert "build the store: " in capfd.readouterr().err
