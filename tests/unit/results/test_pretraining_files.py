"""The block `pretraining` of a summary, from drawn result folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clip_pkg.base.paths import ConfigPaths
from clip_pkg.results.pretraining_rows import ALL_IMAGES
from clip_pkg.results.summary import summarize, without_times
from clip_pkg.results.summary_schema import PretrainingSummary
from support.pretraining_folders import MEASURES, write_pretraining
from support.result_folders import drawn_answers, image_list, write_result

IMAGES = image_list()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_result(tmp_path, "a", IMAGES, drawn_answers(IMAGES, 1.0, 0), n_splits=2)


def block(folder: Path) -> dict[str, Any]:
    summary = summarize(ConfigPaths(folder))
    found: dict[str, Any] = summary["pretraining"]
    PretrainingSummary.model_validate(found)
    assert set(found["notices"]) <= set(summary["notices"])
    return found


def test_without_a_pretraining_it_is_null(folder: Path) -> None:
    assert summarize(ConfigPaths(folder))["pretraining"] is None


def test_one_run_for_all_folds_is_counted_once(folder: Path) -> None:
    write_pretraining(folder, "all")
    found = block(folder)
    assert found["loss"] == "dhel"
    assert found["settings"] == {"temperature": 0.3}
    assert (found["images"], found["shared_by_folds"]) == ("all", True)
    assert found["runs"] == ["../pretraining/run"]
    assert (folder / found["runs"][0] / "result.json").exists()
    assert (found["seconds"], found["train_images_per_second"]) == (10.0, 200.0)
    assert found["last"] == MEASURES
    assert found["untrained"] == {"knn_acc": 20.0, "probe_acc": 25.0}
    assert not found["collapsed"]
    assert ALL_IMAGES in found["notices"]
    assert "seconds" not in without_times(summarize(ConfigPaths(folder)))["pretraining"]


def test_a_run_per_fold_is_averaged_and_its_time_added_up(folder: Path) -> None:
    write_pretraining(folder, "train_fold", runs=("one", "two"), seconds=7.0)
    found = block(folder)
    assert found["runs"] == ["../pretraining/one", "../pretraining/two"]
    assert (found["seconds"], found["shared_by_folds"]) == (14.0, False)
    assert found["notices"] == ["one was watched", "two was watched"]


def test_a_folder_of_other_images(folder: Path) -> None:
    write_pretraining(folder, "/data/x-rays")
    found = block(folder)
    assert (found["images"], found["shared_by_folds"]) == ("folder", True)


def test_features_that_are_all_alike_are_a_collapse(folder: Path) -> None:
    write_pretraining(folder, measures={"effective_rank": 1.02})
    assert block(folder)["collapsed"]


@pytest.mark.parametrize("damage", ["gone", "broken", "no task"])
def test_what_is_missing_is_null_with_a_notice(folder: Path, damage: str) -> None:
    write_pretraining(folder, "train_fold")
    run = folder.parent / "pretraining" / "run"
    if damage == "no task":
        for task in folder.glob("fold_*/task.json"):
            task.unlink()
    for name in ("result.json", "history.json"):
        if damage == "gone":
            (run / name).unlink()
        else:
            (run / name).write_text("{")
    found = block(folder)
    assert (found["seconds"], found["train_images_per_second"]) == (None, None)
    assert set(found["last"].values()) == {None}
    assert found["notices"]
    assert found["runs"] == [None if damage == "no task" else "../pretraining/run"] * 2
