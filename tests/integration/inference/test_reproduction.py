"""A fold's checkpoint gives the numbers of the fold's own files again, whatever it predicts by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from integration.inference.conftest import CONFIGS, read_table

from clip_pkg.training.early_stopping import BestEpoch
from clip_pkg.training.trainer import Cadence


@pytest.mark.parametrize("name", CONFIGS)
def test_the_best_checkpoint_reproduces_the_predictions_of_its_fold(
    name: str,
    run: Path,
    predict: Callable[..., str],
    validation_table: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    fold = run / name / "fold_1"
    best = "checkpoint_best.pth" if name != "no_best" else "checkpoint_latest.pth"
    answers = tmp_path / "answers.csv"
    predict(fold / best, "--images", validation_table(fold), "--output", answers)
    wanted, found = read_table(fold / "predictions.csv"), read_table(answers)
    assert found.columns == [column for column in wanted.columns if column != "label"]
    assert [Path(path).name for path in found.paths] == [Path(path).name for path in wanted.paths]
    assert found.predictions == wanted.predictions
    assert np.array_equal(found.probabilities, wanted.probabilities)


def test_a_best_model_that_is_written_epochs_later_is_the_one_of_its_epoch(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    predict: Callable[..., str],
    validation_table: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(Cadence, "due", lambda _: False)
    after = BestEpoch.after
    # The second epoch is the best one, whatever its loss.
    monkeypatch.setattr(
        BestEpoch, "after", lambda self, epoch, _: after(self, epoch, abs(epoch - 2))
    )
    train("--config-file", write_configs({"name": "a", "use_cv": False, "epochs": 4}))
    fold = tmp_path / "out/a/fold_1"
    assert json.loads((fold / "result.json").read_text())["best_epoch"] == 2
    answers = tmp_path / "answers.csv"
    for checkpoint, wanted in (("best", "predictions"), ("latest", "predictions_last")):
        model = fold / f"checkpoint_{checkpoint}.pth"
        predict(model, "--images", validation_table(fold), "--output", answers)
        expected = read_table(fold / f"{wanted}.csv").probabilities
        assert np.array_equal(read_table(answers).probabilities, expected)
