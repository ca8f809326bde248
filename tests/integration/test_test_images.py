"""`test_dir`: images that every fold looks at once, with the model that validation chose."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_pkg.cli import main
from support.independent_metrics import largest_deviation
from support.tiny import make_folder, paint


@pytest.fixture(scope="session")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 other pictures of the same classes; `make_folder` numbers classes in this order."""
    root = tmp_path_factory.mktemp("test images")
    for label, (name, count) in enumerate({"red": 5, "grün": 4, "blue sky": 3}.items()):
        for number in range(count):
            paint(root / name / f"t{number}.png", label, 1000 + number)
    return root


def answers(path: Path) -> np.ndarray:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = [name for name in rows[0] if name.startswith("prob")]
    assert len(columns) == 3
    return np.array([[float(row[name]) for name in columns] for row in rows])


@pytest.mark.parametrize("save_best", [True, False])
def test_scores_are_those_of_the_chosen_epoch_and_recomputable(
    save_best: bool,
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    tested: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change = {"name": "m", "test_dir": str(tested), "save_best": save_best, "epochs": 3}
    shown = train("--config-file", write_configs(change))
    assert "Test acc" in shown
    summary = json.loads((tmp_path / "out" / "m" / "cv_summary.json").read_text(encoding="utf-8"))
    block = summary["test"]
    assert block["n"] == 12
    assert block["fold_results"]["fold_test_top_5"] == [None, None]  # of three classes
    assert block["average_results"]["n"] == 2
    for fold in (1, 2):
        folder = tmp_path / "out" / "m" / f"fold_{fold}"
        table = answers(folder / "test_predictions.csv")
        assert (folder / "checkpoint_best.pth").exists() is save_best
        if save_best:
            out = tmp_path / "again.csv"
            main(["predict", str(folder), "--images", str(tested), "--output", str(out)])
            capsys.readouterr()
            np.testing.assert_allclose(answers(out), table, atol=1e-5)
    largest, where, _ = largest_deviation(tmp_path / "out" / "m")
    assert largest < 1e-12, where
    logs = "".join(p.read_text(encoding="utf-8") for p in tmp_path.rglob("*.log"))
    assert logs.count("Test Loss: ") == 2


def test_test_images_change_nothing_about_the_folds(
    train: Callable[..., str], write_configs: Callable[..., Path], tested: Path, tmp_path: Path
) -> None:
    both = ({"name": "with", "test_dir": str(tested)}, {"name": "without"})
    train("--config-file", write_configs(*both), "--multi-config")
    kept = [
        json.loads((tmp_path / "out" / name / "cv_summary.json").read_text(encoding="utf-8"))
        for name in ("with", "without")
    ]
    assert kept[0]["fold_results"] == kept[1]["fold_results"]
    assert kept[0]["data_fingerprint"] == kept[1]["data_fingerprint"]
    assert kept[0]["identity"]["data"] != kept[1]["identity"]["data"]
    assert kept[1]["test"] is None


def test_a_refit_is_tested_with_its_last_epoch(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    tested: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train("--config-file", write_configs({"name": "m", "test_dir": str(tested)}))
    assert main(["refit", str(tmp_path / "out" / "m"), "--executor", "inline"]) == 0
    assert "On 12 test images: accuracy" in capsys.readouterr().out
    result = json.loads(
        next((tmp_path / "out" / "m").glob("refit/*result*.json")).read_text(encoding="utf-8")
    )
    assert result["n_test"] == 12
    assert result["test"]["test_acc"] is not None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("unknown class", "class(es) green have no training images"),
        ("leak", "is also the training image"),
        ("nowhere", "was not found; searched"),
    ],
)
def test_unfit_test_images_are_a_sentence(
    change: str,
    sentence: str,
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    images: Path,
    tmp_path: Path,
) -> None:
    folder = make_folder(tmp_path / "other", {"x": 0})
    for label, name in enumerate(("red", "grün")):
        paint(folder / name / "t.png", label, 1000)
    if change == "unknown class":
        paint(folder / "green" / "t.png", 1, 2000)
    if change == "leak":
        shutil.copy(images / "red" / "003.png", folder / "red" / "copy.png")
    where = folder / "nowhere" if change == "nowhere" else folder
    told = train("--config-file", write_configs({"test_dir": str(where)}), check=2)
    assert sentence in " ".join(told.split())
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_missing_classes_and_near_copies_are_notices(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    images: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "other"
    for label, name in enumerate(("red", "grün")):
        for number in range(4):
            paint(folder / name / f"t{number}.png", label, 1000 + number)
    Image.open(images / "red" / "003.png").save(folder / "red" / "copy.bmp")
    config = write_configs({"test_dir": "other", "use_cv": False, "epochs": 1})
    told = " ".join(train("--config-file", config).split())
    assert "no test images of blue sky" in told
    assert "near copies of training images" in told
