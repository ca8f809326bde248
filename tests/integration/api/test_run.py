"""Runs as data frames: what the tables hold is what the files say."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clip_pkg import Run, load_run
from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.paths import ConfigPaths
from support.tiny import CHECKOUT


@pytest.fixture
def run(output: Path) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is unfinished
        return load_run(output)


def test_an_output_folder_has_all_configs_and_a_config_folder_one(run: Run, output: Path) -> None:
    assert run.names == ["plain", "super"]
    assert run.configs[["config", "loss.type", "epochs"]].to_numpy().tolist() == [
        ["plain", "clip", 2],
        ["super", "superclip", 1],
    ]
    assert load_run(str(output / "super")).names == ["super"]


def test_what_it_holds_is_said_in_a_line(run: Run, output: Path) -> None:
    assert repr(run) == f"Run({str(output)!r}, configs plain, super: 4 of 4 folds done)"
    (plain, _) = run.files
    assert repr(plain) == f"ConfigFiles({str(output / 'plain')!r}, 2 of 2 folds done)"
    assert repr(plain.folds[0]) == f"FoldFiles({str(output / 'plain/fold_1')!r}, done)"


def test_histories_are_the_files(run: Run, output: Path) -> None:
    histories = run.histories
    assert list(histories.columns[:3]) == ["config", "fold", "epoch"]
    assert len(histories) == 2 * 2 + 2 * 1
    for (config, fold), rows in histories.groupby(["config", "fold"]):
        stored = json.loads((output / f"{config}/fold_{fold}/history.json").read_text("utf-8"))
        assert rows.epoch.tolist() == [*range(1, len(rows) + 1)]
        np.testing.assert_array_equal(rows.val_acc, stored["val_acc"])
    # superclip has parts that clip has not
    assert histories.set_index("config").loc["plain", "val_class_loss"].isna().all()


def test_predictions_give_the_scores_of_the_summary(run: Run) -> None:
    predictions = run.predictions
    assert (len(predictions), predictions.path.nunique()) == (60, 30)
    probabilities = predictions[["prob_blue sky", "prob_grün", "prob_red"]]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(probabilities.max(axis=1), predictions.confidence)
    assert (predictions.correct == (predictions.label == predictions.prediction)).all()
    accuracy = 100 * predictions.groupby("config").correct.mean()
    summaries = run.summaries.set_index(["config", "epoch", "score"])
    for config in run.names:
        row = summaries.loc[config, "best_epoch", "acc"]
        assert row.out_of_fold == pytest.approx(accuracy[config])
        assert row.low <= row.out_of_fold <= row.high
    last = 100 * run.predictions_last.groupby("config").correct.mean()
    assert summaries.loc["plain", "last_epoch", "acc"].out_of_fold == pytest.approx(last["plain"])


def test_folds_average_to_the_summary(run: Run) -> None:
    folds = run.folds
    assert folds[["config", "fold", "status"]].to_numpy().tolist() == [
        [name, fold, "done"] for name in ("plain", "super") for fold in (1, 2)
    ]
    rows = run.summaries[(run.summaries.config == "plain") & (run.summaries.score == "f1")]
    best = rows[rows.epoch == "best_epoch"].iloc[0]
    values = folds[folds.config == "plain"].val_f1
    assert (best["mean"], best["std"]) == pytest.approx((values.mean(), values.std()))
    assert best["n"] == 2
    assert set(run.summaries.epoch) == {"headline", "best_epoch", "last_epoch"}


def test_classes_and_confusions_add_up(run: Run) -> None:
    table = run.per_class
    counts = run.confusion_matrix("super")
    support = table[table.config == "super"].set_index("class").support
    assert support.to_dict() == {"red": 14, "grün": 10, "blue sky": 6}
    pd.testing.assert_series_equal(counts.sum(axis=1), support, check_names=False)
    assert {"recall", "recall_low", "recall_high", "auroc_low"} <= set(table.columns)


def test_unfinished_folds_are_told_and_left_out(output: Path, tmp_path: Path) -> None:
    shutil.copytree(output, tmp_path / "out")
    fold = ConfigPaths(tmp_path / "out/plain").fold(2)
    fold.result.unlink()
    with pytest.warns(UserWarning, match=r"left out: plain: fold_2 .missing"):
        run = load_run(tmp_path / "out")
    assert run.unfinished == ["plain: fold_2 (missing)"]
    assert run.folds.status.tolist() == ["done", "missing", "done", "done"]
    assert set(run.predictions[run.predictions.config == "plain"].fold) == {1}
    assert len(run.histories) == 6  # a fold that trains has a history already
    # The stored summary knows of two folds; what is told is made of the one that is there.
    rows = run.summaries.set_index(["config", "epoch", "score"])
    assert rows.loc["plain", "best_epoch", "acc"].n == 1
    assert rows.loc["super", "best_epoch", "acc"].n == 2


def test_a_run_without_any_result_is_empty_tables(output: Path, tmp_path: Path) -> None:
    shutil.copytree(output / "plain", tmp_path / "plain")
    for fold in (1, 2):
        shutil.rmtree(tmp_path / f"plain/fold_{fold}")
    (tmp_path / "plain/cv_summary.json").unlink()
    with pytest.warns(UserWarning, match="fold_1"):
        run = load_run(tmp_path / "plain")
    assert run.predictions.empty
    assert run.histories.empty
    assert run.per_class.empty
    assert list(run.summaries.columns[:3]) == ["config", "epoch", "score"]
    with pytest.raises(RunFolderError, match="no fold is finished"):
        run.confusion_matrix("plain")
    assert not (tmp_path / "plain/cv_summary.json").exists()


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no results"):
        load_run(tmp_path)


def test_importing_the_package_is_light() -> None:
    heavy = "{'torch', 'pandas', 'sklearn', 'numpy', 'scipy'}"
    code = (
        f"import sys, clip_pkg; assert 'load_run' in dir(clip_pkg); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
    import clip_pkg

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = clip_pkg.nothing


def test_the_example_makes_a_table_and_a_picture(
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["example", str(output), str(tmp_path / "analysis.png")])
    runpy.run_path(str(CHECKOUT / "docs/example_analysis.py"))
    assert (tmp_path / "analysis.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "balanced_acc" in shown
    assert "super" in shown
