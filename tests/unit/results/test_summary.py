"""Summaries from hand-made fold files: averages, gaps, refusals."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.files import write_json
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.config.load import dump_canonical
from clip_pkg.config.schema import RunConfig
from clip_pkg.results import headline, summary
from clip_pkg.results.curves import write_mean_curves
from clip_pkg.results.folders import ConfigFiles
from clip_pkg.results.headline import intervals_block
from clip_pkg.results.summary import summarize
from clip_pkg.study.identity import Identity
from clip_pkg.study.predictions import Predictions
from clip_pkg.study.tasks import FoldFailure, FoldResult, write_record

CLASSES = ("a", "b", "c")
IDENTITY = Identity("config", "data", "splits", "texts", "code")


def result(fold: int, accuracy: float, auroc: float | None = 0.9) -> FoldResult:
    scores = {"val_acc": accuracy, "val_auroc": auroc}
    return FoldResult(
        identity=IDENTITY,
        fold=fold,
        n_train=4,
        n_val=2,
        best_epoch=fold,
        last_epoch=9,
        stopped_early=False,
        best=scores,
        last={"val_acc": accuracy - 1, "val_auroc": auroc},
        untrained={"val_acc": 30.0, "val_auroc": 0.5},
        chosen_on="reported fold",
        device="cpu",
        environment={"torch": "2", "device": "cpu"},
        seconds=1.0,
        train_seconds=0.5,
        peak_memory_bytes=None,
        notices=[],
    )


def predictions(fold: int, seed: int = 0) -> Predictions:
    random = np.random.default_rng((fold, seed))
    scores = random.dirichlet((1, 1, 1), size=2)
    return Predictions(CLASSES, (f"{fold}/x.png", f"{fold}/y.png"), np.array([fold % 3, 2]), scores)


@pytest.fixture
def folder(tmp_path: Path) -> ConfigPaths:
    paths = ConfigPaths(tmp_path / "config")
    write_json(paths.identity, asdict(IDENTITY))
    config = dump_canonical(RunConfig(name="config"))
    write_json(paths.config, config)
    fold = {"train_per_class": {"a": 3, "b": 1, "c": 0}, "val_per_class": {"a": 1, "b": 1, "c": 0}}
    fold |= {"n_train": 4, "n_val": 2, "train": [], "val": []}
    write_json(
        paths.folds_info,
        {
            "folds": [{"fold": number, **fold} for number in (1, 2, 3)],
            "method": "stratified",
            "classes": ["a", "b", "c"],
            "data_fingerprint": "data",
            "splits_hash": "splits",
        },
    )
    for number, accuracy in enumerate((80.0, 90.0, 70.0), start=1):
        write_record(paths.fold(number).result, result(number, accuracy))
        write_json(paths.fold(number).history, {"train_loss": [1.0] * 5})
        predictions(number).write(paths.fold(number).predictions)
        predictions(number, seed=1).write(paths.fold(number).predictions_last)
    return paths


def test_averages_are_means_with_sample_deviation(folder: ConfigPaths) -> None:
    summary = summarize(folder)
    averages = summary["average_results"]
    assert averages["avg_val_acc"] == pytest.approx(80.0)
    assert averages["std_val_acc"] == pytest.approx(np.std([80, 90, 70], ddof=1))
    assert (averages["n"], averages["ddof"]) == (3, 1)
    assert summary["fold_results"]["fold_best_epoch"] == [1, 2, 3]
    assert summary["last_epoch"]["average_results"]["avg_val_acc"] == pytest.approx(79.0)
    assert summary["baselines"]["majority_class"]["avg_val_acc"] == pytest.approx(50.0)
    assert summary["baselines"]["majority_class"]["avg_val_balanced_acc"] == pytest.approx(50.0)
    assert json.loads(folder.summary.read_text()) == json.loads(json.dumps(summary))


def test_missing_and_failed_folds_are_named_and_left_out(folder: ConfigPaths) -> None:
    folder.fold(2).result.unlink()
    folder.fold(3).result.unlink()
    failure = FoldFailure(IDENTITY, 3, "diverged", "NaN", "", "log")
    write_record(folder.fold(3).failure, failure)
    summary = summarize(folder)
    assert summary["status"] == {"fold_1": "done", "fold_2": "missing", "fold_3": "diverged"}
    assert summary["complete"] is False
    assert summary["fold_results"]["fold_val_acc"] == [80.0, None, None]
    assert summary["average_results"]["n"] == 1
    assert summary["average_results"]["std_val_acc"] is None
    assert summary["failures"]["fold_3"]["kind"] == "diverged"


def test_a_summary_that_a_fold_overtakes_is_not_the_last_word(
    folder: ConfigPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = folder.fold(1).result
    content, build = result.read_bytes(), summary.build_summary
    result.unlink()

    def build_slowly(files: ConfigFiles) -> dict[str, Any]:
        built = build(files)
        if not result.exists():  # now the fold ends, and its launcher summarises it
            result.write_bytes(content)
            summarize(folder)
        return built

    monkeypatch.setattr(summary, "build_summary", build_slowly)
    returned = summarize(folder)
    assert returned["status"]["fold_1"] == "done"
    assert json.loads(folder.summary.read_bytes()) == returned


def test_an_undefined_score_is_counted_and_not_averaged_as_zero(folder: ConfigPaths) -> None:
    write_record(folder.fold(2).result, result(2, 90.0, auroc=None))
    averages = summarize(folder)["average_results"]
    assert averages["avg_val_auroc"] == pytest.approx(0.9)
    assert averages["n_val_auroc"] == 2


def test_intervals_are_computed_again_only_for_other_predictions(
    folder: ConfigPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []

    def counted(files: ConfigFiles, found: Predictions) -> Any:
        computed.append(len(found.paths))
        return intervals_block(files, found)

    monkeypatch.setattr(headline, "intervals_block", counted)
    first = summarize(folder)
    assert summarize(folder)["confidence_intervals"] == first["confidence_intervals"]
    assert computed == [6]
    predictions(1, seed=2).write(folder.fold(1).predictions)
    assert summarize(folder)["confidence_intervals"] != first["confidence_intervals"]
    assert computed == [6, 6]


def test_folds_of_another_run_are_left_out(folder: ConfigPaths) -> None:
    other = replace(result(1, 80.0), identity=replace(IDENTITY, data="other", code="other"))
    write_record(folder.fold(1).result, other)
    summary = summarize(folder)
    assert summary["status"] == {"fold_1": "failed", "fold_2": "done", "fold_3": "done"}
    assert "its data differ" in summary["failures"]["fold_1"]["reason"]


def test_an_image_in_two_folds_is_refused(folder: ConfigPaths) -> None:
    predictions(1).write(folder.fold(2).predictions)
    with pytest.raises(RunFolderError, match="in two folds"):
        summarize(folder)


@pytest.mark.parametrize("name", ["config", "folds_info", "identity"])
def test_a_folder_that_is_none_of_ours(folder: ConfigPaths, name: str) -> None:
    getattr(folder, name).unlink()
    with pytest.raises(RunFolderError, match=rf"{name}\.json is missing"):
        summarize(folder)
    getattr(folder, name).write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        summarize(folder)


def test_damaged_result_and_predictions_are_named(folder: ConfigPaths) -> None:
    folder.fold(1).predictions.write_text("path,label\nx,q\n")
    assert r"predictions.csv" in summarize(folder)["failures"]["fold_1"]["reason"]
    folder.fold(1).result.write_text('{"identity": {}}')
    summary = summarize(folder)
    assert "result.json" in summary["failures"]["fold_1"]["reason"]
    assert (summary["average_results"]["n"], summary["complete"]) == (2, False)


def test_predictions_round_trip_to_the_last_bit(tmp_path: Path) -> None:
    from clip_pkg.study.predictions import read_predictions

    names = ('comma, "quote"', "grün\u2028", "plain")
    random = np.random.default_rng(0)
    mine = Predictions(
        names, ("a,b.png", "ü.png"), np.array([0, 2]), random.dirichlet((1, 1, 1), 2)
    )
    mine.write(tmp_path / "p.csv")
    again = read_predictions(tmp_path / "p.csv")
    assert (again.classes, again.paths) == (mine.classes, mine.paths)
    np.testing.assert_array_equal(again.probabilities, mine.probabilities)
    np.testing.assert_array_equal(again.targets, mine.targets)


def test_mean_curves_follow_the_folds_that_are_still_running(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    paths = ConfigPaths(tmp_path)
    histories: list[dict[str, list[Any]]] = [
        {"val_acc": [10.0, 20.0], "val_auroc": [None, 0.5]},
        {"val_acc": [30.0], "val_auroc": [None]},
    ]
    for number, history in enumerate(histories, start=1):
        write_json(paths.fold(number).history, history)
    write_mean_curves(paths)
    events = EventAccumulator(str(paths.tensorboard / "mean"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("Folds/val_acc")] == [(1, 20.0), (2, 20.0)]
    assert [(e.step, e.value) for e in events.Scalars("Folds/val_auroc")] == [(2, 0.5)]
    assert [e.value for e in events.Scalars("Folds/count")] == [2.0, 1.0]
    upper = EventAccumulator(str(paths.tensorboard / "mean_plus_std"))
    upper.Reload()
    deviation = np.std([10, 30], ddof=1)
    assert upper.Scalars("Folds/val_acc")[0].value == pytest.approx(20 + deviation, rel=1e-6)
