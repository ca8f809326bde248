"""`evaluate`: labelled images from elsewhere, scored as independent libraries score them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from integration.inference.conftest import read_table
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score
from statsmodels.stats.proportion import proportion_confint

from support.tiny import paint

FOLDERS = {"red": 0, "GRÜN": 1, "Blue_Sky": 2}  # spelt otherwise than in training


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    for name, label in FOLDERS.items():
        for number in range(100, 104):
            paint(tmp_path / "elsewhere" / name / f"{number}.png", label, number)
    return tmp_path / "elsewhere"


def test_scores_are_those_of_other_libraries(
    run: Path, elsewhere: Path, use: Callable[..., str], tmp_path: Path
) -> None:
    shown = use("evaluate", run / "folds", "--images", elsewhere, "--output", tmp_path / "scores")
    found = json.loads((tmp_path / "scores/evaluation.json").read_text(encoding="utf-8"))
    use("predict", run / "folds", "--images", elsewhere, "--output", tmp_path / "plain.csv")
    written = read_table(tmp_path / "scores/predictions.csv")
    plain = read_table(tmp_path / "plain.csv")
    by_name = {
        Path(path).relative_to(elsewhere).as_posix(): n for n, path in enumerate(plain.paths)
    }
    order = [by_name[path] for path in written.paths]
    np.testing.assert_array_equal(written.probabilities, plain.probabilities[order])

    with (tmp_path / "scores/predictions.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    true, predicted = ([row[key] for row in rows] for key in ("label", "prediction"))
    assert set(true) == {"red", "grün", "blue sky"}
    scores = found["scores"]
    assert scores["acc"] == pytest.approx(100 * accuracy_score(true, predicted))
    assert scores["balanced_acc"] == pytest.approx(100 * balanced_accuracy_score(true, predicted))
    assert scores["f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    matrix = found["confusion_matrix"]
    expected = confusion_matrix(true, predicted, labels=matrix["classes"])
    np.testing.assert_array_equal(matrix["counts"], expected)
    right = sum(a == b for a, b in zip(true, predicted, strict=True))
    limits = np.array(proportion_confint(right, len(true), method="wilson")) * 100
    np.testing.assert_allclose(found["intervals"]["acc"], limits)
    assert "GRÜN as grün" in shown
    assert f"12 images: accuracy {scores['acc']:.1f} % (95 % CI" in " ".join(shown.split())
    assert "<svg" in (tmp_path / "scores/confusion_matrix.svg").read_text(encoding="utf-8")


def test_images_of_the_training_are_noticed(
    run: Path, images: Path, elsewhere: Path, use: Callable[..., str]
) -> None:
    shutil.copy(next((images / "red").iterdir()), elsewhere / "red/copy.png")
    shown = use("evaluate", run / "folds", "--images", elsewhere)
    assert "1 of these 13 images are images of the training" in shown


def test_a_class_that_the_model_lacks_is_named_and_one_without_images_has_no_scores(
    run: Path, elsewhere: Path, use: Callable[..., str], tmp_path: Path
) -> None:
    shutil.rmtree(elsewhere / "GRÜN")
    words = ["--images", elsewhere, "--output", tmp_path / "scores"]
    assert "no image has the class grün" in use("evaluate", run / "folds", *words)
    found = json.loads((tmp_path / "scores/evaluation.json").read_text(encoding="utf-8"))
    assert found["per_class"]["grün"]["recall"] is None
    paint(elsewhere / "violet/1.png", 1, 1)
    assert "no class violet" in use(
        "evaluate", run / "folds", "--images", elsewhere, "--output", tmp_path / "more", check=2
    )
    assert not (tmp_path / "more").exists()


def test_images_of_one_patient_count_as_one(
    run: Path, elsewhere: Path, use: Callable[..., str], tmp_path: Path
) -> None:
    names = [path.relative_to(tmp_path).as_posix() for path in sorted(elsewhere.rglob("*.png"))]
    lines = [f"{name},{Path(name).parent.name},{n // 4}" for n, name in enumerate(names)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["path,label,group", *lines]), encoding="utf-8")
    for source, name in ((elsewhere, "each"), (table, "groups")):
        use("evaluate", run / "folds", "--images", source, "--output", tmp_path / name)
    each, groups = (
        json.loads((tmp_path / name / "evaluation.json").read_text(encoding="utf-8"))
        for name in ("each", "groups")
    )
    assert groups["scores"]["acc"] == each["scores"]["acc"]
    assert groups["independent"] == "groups of images"
    wide, narrow = (one["intervals"]["acc"] for one in (groups, each))
    assert wide[1] - wide[0] >= narrow[1] - narrow[0]
