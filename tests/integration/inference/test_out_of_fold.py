"""`predict --out-of-fold`: a config's own images, answered by the fold that did not see them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from integration.inference.conftest import read_table

from clip_pkg.metrics.calibration import tempered


@pytest.mark.parametrize("suffix", [".csv", ".json"])
@pytest.mark.parametrize("name", ["folds", "clip", "no_best"])
def test_it_reproduces_the_predictions_of_every_fold(
    name: str, suffix: str, run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / f"answers{suffix}"
    predict(run / name, "--images", images, "--out-of-fold", "--output", output)
    found = read_table(output)
    assert found.columns[:4] == ["path", "label", "fold", "prediction"]
    file = "predictions_last.csv" if name == "no_best" else "predictions.csv"
    folds = [read_table(path / file) for path in sorted((run / name).glob("fold_*"))]
    assert found.paths == [path for fold in folds for path in fold.paths]
    assert found.predictions == [one for fold in folds for one in fold.predictions]
    assert np.array_equal(
        found.probabilities, np.concatenate([fold.probabilities for fold in folds])
    )
    rows = json.loads(output.read_text()) if suffix == ".json" else _rows(output)
    assert [row["label"] for row in rows] == [Path(row["path"]).parent.name for row in rows]
    wanted = [n for n, fold in enumerate(folds, start=1) for _ in fold.paths]
    assert [int(row["fold"]) for row in rows] == wanted


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_calibrated(run: Path, images: Path, predict: Callable[..., str], tmp_path: Path) -> None:
    words = ["--images", images, "--out-of-fold", "--output"]
    predict(run / "folds", *words, tmp_path / "plain.csv")
    shown = predict(run / "folds", *words, tmp_path / "scaled.csv", "--calibrate")
    plain, scaled = (read_table(tmp_path / f"{name}.csv") for name in ("plain", "scaled"))
    temperature = float(shown.split("T = ")[1].split(",")[0])
    np.testing.assert_allclose(
        scaled.probabilities, tempered(plain.probabilities, temperature), rtol=5e-3, atol=1e-6
    )


def test_what_it_cannot_be_asked(
    run: Path, images: Path, use: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / "answers.csv"

    def refused(model: Path, *words: str | Path) -> str:
        return use("predict", model, "--out-of-fold", *words, check=2)

    two = ["--images", images / "red", images / "grün", "--output", output]
    assert "--images takes one path" in refused(run / "folds", *two)
    assert "add --output FILE" in refused(run / "folds", "--images", images)
    rest = ["--images", images, "--output", output]
    for part in ("fold_1", "fold_1/checkpoint_best.pth"):
        assert "only known for a whole config" in refused(run / "folds" / part, *rest)
    shutil.copytree(images, tmp_path / "changed")
    (tmp_path / "changed/red/000.png").unlink()
    changed = ["--images", tmp_path / "changed", "--output", output]
    assert "these folds were made for other images" in refused(run / "folds", *changed)
    assert not output.exists()
