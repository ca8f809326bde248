"""Repeated cross-validation: pooled predictions, the block of the summary, comparisons."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.metrics.classification import classification_metrics
from clip_pkg.results.bootstrap import image_clusters
from clip_pkg.results.comparison import compare
from clip_pkg.results.folders import ConfigFiles
from clip_pkg.results.statistics import mcnemar_test
from clip_pkg.results.summary import summarize
from clip_pkg.results.summary_schema import read_summary
from clip_pkg.study.splits import make_splits
from support.result_folders import drawn_answers, image_list, write_result

IMAGES = image_list()
GOOD, BAD = drawn_answers(IMAGES, 1.5, 0), drawn_answers(IMAGES, 0.5, 1)
SPLITS = make_splits(
    IMAGES, use_cv=True, n_splits=5, n_repeats=4, random_state=42, val_fraction=0.25
)


def accuracy(of: np.ndarray) -> float:
    return float(classification_metrics(GOOD[of], IMAGES.labels[of]).scores["acc"] or 0)


def test_the_summary_has_every_fold_and_every_repeat(tmp_path: Path) -> None:
    paths = ConfigPaths(write_result(tmp_path, "a", IMAGES, GOOD, n_repeats=4))
    summary = read_summary(paths.summary)
    by_fold = np.array(summary["fold_results"]["fold_val_acc"])
    assert by_fold == pytest.approx([100 * accuracy(fold.val) for fold in SPLITS.folds])
    block = summary["repeats"]
    assert (block["n_repeats"], block["n_splits"]) == (4, 5)
    means = by_fold.reshape(4, 5).mean(axis=1)
    for epoch in ("best_epoch", "last_epoch"):
        assert block[epoch]["repeat_results"]["repeat_val_acc"] == pytest.approx(means)
        averages = block[epoch]["average_results"]
        assert averages["avg_val_acc"] == pytest.approx(means.mean())
        assert averages["std_val_acc"] == pytest.approx(means.std(ddof=1))
    out_of_fold = summary["out_of_fold"]
    assert out_of_fold["n"] == out_of_fold["n_planned"] == 4 * len(IMAGES)
    assert np.sum(summary["confusion_matrix"]["counts"]) == 4 * len(IMAGES)
    assert summary["per_class"]["cat"]["support"] == 4 * 40


def test_a_repeat_without_all_folds_has_no_mean(tmp_path: Path) -> None:
    paths = ConfigPaths(write_result(tmp_path, "a", IMAGES, GOOD, n_repeats=4, missing=[7]))
    block = read_summary(paths.summary)["repeats"]["best_epoch"]
    assert [mean is None for mean in block["repeat_results"]["repeat_val_acc"]] == [0, 1, 0, 0]
    assert block["average_results"]["n"] == 3


def test_a_single_division_is_summarised_as_before(tmp_path: Path) -> None:
    once = ConfigPaths(write_result(tmp_path, "a", IMAGES, GOOD))
    assert summarize(once)["repeats"] is None
    info = json.loads(once.folds_info.read_text(encoding="utf-8"))
    assert not {"repeat", "fold_in_repeat"} & set(info["folds"][0])


def test_the_same_predictions_again_make_no_interval_narrower(tmp_path: Path) -> None:
    once, often = (
        read_summary(ConfigPaths(write_result(tmp_path, name, IMAGES, GOOD, n_repeats=n)).summary)
        for name, n in (("once", 1), ("often", 4))
    )
    for name in ("acc", "f1", "log_loss"):
        mine, theirs = (
            np.ptp(one["confidence_intervals"]["out_of_fold"][name]) for one in (once, often)
        )
        assert theirs == pytest.approx(mine, rel=0.1)  # half as wide if all predictions counted
    assert often["confidence_intervals"]["drawn"] == "images"


def test_predictions_of_an_image_and_of_its_group_are_one_cluster() -> None:
    clusters = image_clusters(["a", "b", "c", "a", "b", "c"], [["a", "b"]])
    assert clusters is not None
    np.testing.assert_array_equal(clusters == clusters[0], [1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(clusters == clusters[2], [0, 0, 1, 0, 0, 1])
    alone = image_clusters(["a", "b", "a", "b"], [])
    assert alone is not None
    np.testing.assert_array_equal(alone == alone[0], [1, 0, 1, 0])


def test_an_image_twice_in_one_repeat_is_refused(tmp_path: Path) -> None:
    paths = ConfigPaths(write_result(tmp_path, "a", IMAGES, GOOD, n_repeats=2))
    found = ConfigFiles.read(paths).pooled()
    assert found is not None
    assert sorted(found.paths) == sorted(2 * IMAGES.paths)
    paths.fold(7).predictions.write_bytes(paths.fold(6).predictions.read_bytes())
    with pytest.raises(RunFolderError, match="in two folds"):
        ConfigFiles.read(paths).pooled()


def test_all_folds_are_tested_and_each_image_once(tmp_path: Path) -> None:
    for name, answers in (("good", GOOD), ("bad", BAD)):
        write_result(tmp_path, name, IMAGES, answers, n_repeats=4)
    (one,) = compare([tmp_path], metric="acc").data_sets
    (pair,) = one.pairs
    right = [answers.argmax(axis=1) == IMAGES.labels for answers in (GOOD, BAD)]
    differences = [
        100 * (right[0][fold.val].mean() - right[1][fold.val].mean()) for fold in SPLITS.folds
    ]
    error = np.std(differences, ddof=1) * np.sqrt(1 / 20 + 1 / 4)
    assert pair.test is not None
    assert pair.test.t == pytest.approx(np.mean(differences) / error)
    assert pair.test.p == pytest.approx(2 * scipy.stats.t.sf(abs(pair.test.t or 0), 19))
    assert pair.mcnemar == mcnemar_test(*right)
    assert one.n_images == len(IMAGES)
    assert one.rows[0].folds_cell == "20/20 (4 × 5)"


def test_other_repeats_are_other_folds(tmp_path: Path) -> None:
    write_result(tmp_path, "once", IMAGES, GOOD)
    write_result(tmp_path, "twice", IMAGES, BAD, n_repeats=2)
    (one,) = compare([tmp_path]).data_sets
    assert one.pairs == ()
    assert "their n_repeats are 1 and 2" in one.refusals[0].reason
