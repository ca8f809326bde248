from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clip_pkg.base.spreadsheet import FORMULA_STARTS, escape_cell, unescape_cell
from clip_pkg.results.tables import csv_text
from clip_pkg.study.predictions import Predictions, read_predictions

ATTACKS = ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "'=1")


@given(st.text() | st.text(alphabet="'=+-@\t\r1.e"))
@example("'=1")
@example("-0.5")
def test_every_text_comes_back_and_none_is_a_formula(text: str) -> None:
    cell = escape_cell(text)
    assert unescape_cell(cell) == text
    if cell.startswith(FORMULA_STARTS):
        float(cell)  # numbers stay numbers


@pytest.mark.parametrize("value", [-0.5, 3, None, "-0.5", "+1e3", "a=b", "'quoted'"])
def test_other_cells_stay_as_they_are(value: object) -> None:
    assert escape_cell(value) == value


def test_tables_have_no_formulas() -> None:
    rows = [{"=name": attack, "score": -0.5, "none": None} for attack in ATTACKS]
    header, *cells = csv.reader(io.StringIO(csv_text(rows), newline=""))
    assert header == ["'=name", "score", "none"]
    assert all(row[0].startswith("'") and row[1:] == ["-0.5", ""] for row in cells)
    assert csv_text([], ["=a"]) == "'=a\n"


def test_predictions_come_back_with_their_names(tmp_path: Path) -> None:
    classes = ("+b", "=a")
    paths = tuple(f"{attack}.png" for attack in ATTACKS)
    probabilities = np.tile([0.25, 0.75], (len(paths), 1))
    written = Predictions(classes, paths, np.zeros(len(paths), np.int64), probabilities)
    written.write(tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        assert not any(
            cell.startswith(FORMULA_STARTS) for row in csv.reader(stream) for cell in row
        )
    read = read_predictions(tmp_path / "predictions.csv")
    assert (read.classes, read.paths) == (classes, paths)
