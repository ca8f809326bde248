"""Summaries of real runs: what the schema and its page say, with every number computed again."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.cli import main
from clip_pkg.metrics.table import METRICS
from clip_pkg.results.bootstrap import image_clusters
from clip_pkg.results.summary import summarize
from clip_pkg.results.summary_schema import (
    CvSummary,
    read_summary,
    summary_reference_markdown,
)
from clip_pkg.study.identity import Identity
from clip_pkg.study.tasks import FoldFailure, write_record
from support import independent_metrics
from support.tiny import CHECKOUT, TINY, make_folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained configs of five classes with pairs of images of one patient: in folds, held out."""
    root = tmp_path_factory.mktemp("runs")
    data = make_folder(root / "images", {"a": 12, "b": 8, "c": 8, "d": 6, "e": 4})
    table = root / "images/table.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "group"])
        for path in sorted(data.rglob("*.png")):
            label = path.parent.name
            writer.writerow([path.relative_to(data), label, f"{label}{int(path.stem) // 2}"])
    folds = {**TINY, "name": "folds"}
    held_out = {**TINY, "name": "held out", "epochs": 1, "use_cv": False}
    (root / "configs.json").write_text(json.dumps([folds, held_out]), encoding="utf-8")
    words = ["--data-dir", table, "--output-dir", root / "out", "--log-dir", root / "logs"]
    words += ["--config-file", root / "configs.json", "--multi-config", "--executor", "inline"]
    assert main([str(word) for word in words]) == 0
    return root / "out"


def read(folder: Path) -> Any:
    return json.loads((folder / "cv_summary.json").read_text(encoding="utf-8"))


@pytest.fixture
def failed(runs: Path, tmp_path: Path) -> Path:
    """A run of which the second fold failed."""
    folder = tmp_path / "failed"
    shutil.copytree(runs / "folds", folder)
    paths = ConfigPaths(folder)
    paths.fold(2).result.unlink()
    identity = Identity(**json.loads(paths.identity.read_text(encoding="utf-8")))
    write_record(paths.fold(2).failure, FoldFailure(identity, 2, "crash", "signal 9"))
    return folder


@pytest.mark.parametrize(("name", "numbers"), [("folds", 237), ("held out", 203)])
def test_every_score_is_computed_again_from_the_predictions(
    runs: Path, name: str, numbers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = read_summary(runs / name / "cv_summary.json")
    assert summary["complete"] is True
    assert summary["confidence_intervals"] is not None
    assert independent_metrics.main([str(runs / name)]) == 0
    shown = capsys.readouterr().out
    assert int(shown.split(": ")[1].split()[0]) == numbers, shown


def test_summaries_with_failed_and_missing_folds_are_valid(
    failed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["summarize", str(failed)]) == 0
    shown = capsys.readouterr().out
    assert "folds is incomplete: fold_2 (failed: signal 9)" in shown
    assert "averages are over 1 of 2 folds" in shown
    summary = read_summary(failed / "cv_summary.json")
    assert summary["failures"] == {"fold_2": {"kind": "crash", "reason": "signal 9"}}
    assert summary["out_of_fold"]["n"] < summary["out_of_fold"]["n_planned"] == 38
    assert summary["headline"] is not None

    ConfigPaths(failed).fold(2).failure.unlink()
    ConfigPaths(failed).fold(1).result.unlink()
    summarize(ConfigPaths(failed))
    summary = read_summary(failed / "cv_summary.json")
    assert summary["confidence_intervals"] is summary["out_of_fold"] is None
    assert independent_metrics.largest_deviation(failed)[0] <= independent_metrics.LARGEST


def test_a_changed_number_is_noticed(failed: Path) -> None:
    summarize(ConfigPaths(failed))
    summary = read(failed)
    summary["out_of_fold"]["f1"] += 1e-9
    (failed / "cv_summary.json").write_text(json.dumps(summary), encoding="utf-8")
    worst, where, _ = independent_metrics.largest_deviation(failed)
    assert (worst, where) == (pytest.approx(1e-9, rel=1e-3), "best out_of_fold f1")


def test_best_and_last_epoch_are_separate(runs: Path) -> None:
    summary = read(runs / "folds")
    best, last = summary["best_epoch"], summary["last_epoch"]
    assert best["average_results"] == summary["average_results"]
    assert best["out_of_fold"] == summary["out_of_fold"]
    assert last["fold_results"]["fold_last_epoch"] == [2, 2]
    losses = [json.loads(p.read_text())["val_loss"] for p in sorted(runs.glob("folds/*/history.*"))]
    assert best["fold_results"]["fold_best_epoch"] == [1 + x.index(min(x)) for x in losses]
    assert last["fold_results"]["fold_val_loss"] == [x[-1] for x in losses]


def test_intervals_are_around_the_scores_and_draw_whole_patients(runs: Path) -> None:
    summary = read(runs / "folds")
    found = summary["confidence_intervals"]
    assert found["drawn"] == "groups of images"
    assert found["level"] == 0.95
    for name in ("acc", "balanced_acc", "mAP", "f1", "log_loss"):
        low, high = found["out_of_fold"][name]
        assert low <= summary["out_of_fold"][name] <= high, name
    assert set(found["out_of_fold"]) == set(METRICS)
    assert set(found["per_class"]) == set("abcde")
    environment = {"clip_pkg", "python", "platform", "torch", "numpy", "device", "precision"}
    assert environment <= set(summary["environment"])
    again = summarize(ConfigPaths(runs / "folds"))["confidence_intervals"]
    assert again == found


def test_images_of_a_group_and_copies_are_one_cluster() -> None:
    together = [["a", "b"], ["c"], ["d"], ["c", "d", "absent"]]
    clusters = image_clusters(["d", "b", "c", "a"], together)
    assert clusters is not None
    np.testing.assert_array_equal(clusters, [0, 1, 0, 1])
    assert image_clusters(["a", "c"], together) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, "damaged .schema_version"),
        ({"unknown": 1}, "unknown"),
        ({"complete": False}, "contradict each other"),
        ({"n_folds": 3}, "entries for 3 folds"),
        ({"out_of_fold": None}, "averages or out_of_fold"),
        ({"average_results": {"n": 2, "ddof": 1}}, "best_epoch differs from"),
    ],
)
def test_other_summaries_are_refused(
    runs: Path, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "cv_summary.json"
    path.write_text(json.dumps({**read(runs / "folds"), **change}), encoding="utf-8")
    with pytest.raises(RunFolderError, match=message):
        read_summary(path)


def test_a_file_of_version_2_is_read_and_written_anew(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out/folds"
    shutil.copytree(runs / "folds", folder)
    summary = read(folder)
    headline = summary.pop("headline")
    old = {"method": "stratified percentile bootstrap", "resamples": 1000, "seed": 0}
    summary["confidence_intervals"] |= old
    text = json.dumps({**summary, "schema_version": 2})
    (folder / "cv_summary.json").write_text(text, encoding="utf-8")
    assert "headline" not in read_summary(folder / "cv_summary.json")
    assert main(["compare", str(folder)]) == 0
    assert f"{headline['scores']['balanced_acc']:.2f}" in capsys.readouterr().out
    assert main(["report", str(folder), "--no-images"]) == 0
    assert read(folder)["headline"] == headline


def test_absent_and_damaged_summaries_are_errors(failed: Path) -> None:
    path = failed / "cv_summary.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"damaged .*summarize"):
        read_summary(path)
    path.unlink()
    with pytest.raises(RunFolderError, match="has no cv_summary.json"):
        read_summary(path)


def test_the_page_is_the_schemas() -> None:
    page = (CHECKOUT / "docs/cv_summary.md").read_text(encoding="utf-8")
    tables = page.split("<!-- tables: begin -->")[1].split("<!-- tables: end -->")[0]
    assert tables.strip() == summary_reference_markdown().strip()


def test_the_json_schema_accepts_what_the_model_accepts(runs: Path) -> None:
    import jsonschema

    schema = CvSummary.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    summary = read(runs / "folds")
    jsonschema.validate(summary, schema)
    del summary["out_of_fold"]["acc"]
    with pytest.raises(jsonschema.ValidationError, match="acc"):
        jsonschema.validate(summary, schema)
