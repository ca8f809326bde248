"""`benchmarks/floor.py` from images to its section; how long anything takes is not tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import floor, results
from benchmarks.floor import OF_THE_FLOOR, Compared, Floor, Row
from benchmarks.formats import NAMES
from benchmarks.trainer import TrainedFold
from benchmarks.utilisation import Utilisation
from clip_pkg.study.progress import PHASES

TINY_ROW = Row("tiny", "test_resnet", 40, img_size=32)


@pytest.mark.usefixtures("in_process")
def test_it_measures_and_reports(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "ROWS", (TINY_ROW,))
    words = ["--folds", "2", "--epochs", "2", "--batch-size", "8"]
    floor.main(words)
    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if line.startswith("| `test_resnet`")]
    assert row.endswith("| 2 |")
    assert any(name in row for name in NAMES)
    for name in (*PHASES, "other"):
        (cells,) = re.findall(rf"^\| {name} \| ([\d,]+) \(([\d.]+) %\) \|$", shown, re.MULTILINE)
        if name in OF_THE_FLOOR:
            assert float(cells[1]) > 0, f"no time in {name}"

    written = tmp_path / "RESULTS.md"
    monkeypatch.setattr(floor, "write_section", lambda n, b: results.write_section(n, b, written))
    monkeypatch.setattr(floor, "measure", lambda *_: measured)
    measured = floor.Measured(
        TINY_ROW,
        floor.make_image_set(None, 30, tmp_path / "images"),
        [Compared(TrainedFold(9.0, (2.0, 4.0), 20, 10, 50.0), (Floor("f", 0.04, 0.02),) * 2)],
        {"backward": 0.75, "other": 0.25},
        [20.0],
        Utilisation(None),
    )
    floor.main([*words, "--write"])
    body = results.section(written.read_text(encoding="utf-8"), "floor-cpu")
    assert body is not None
    # A floor of 20 × 0.04 + 10 × 0.02 = 1 s; epochs of 3 s; 4.5 s of the fold for each of two.
    assert "| 20 + 10 | 1.00 | f | 3.00 | **3.00** | 4.50 | 1 |" in body
    assert "| backward | 750 (75.0 %) |" in body
