"""Temperature scaling: the number itself, and `predict --calibrate`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integration.inference.conftest import read_table
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from clip_pkg.inference.calibration import calibrate
from clip_pkg.metrics.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_temperature,
    log_loss,
    tempered,
)


def drawn(seed: int, boldness: float, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are `boldness` times too sure, and the classes that came."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, 4))
    targets = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    return softmax(boldness * logits, axis=1), targets


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), boldness=st.floats(0.2, 5))
def test_it_is_the_minimum_that_another_method_finds(seed: int, boldness: float) -> None:
    probabilities, targets = drawn(seed, boldness)
    logits = np.log(probabilities)

    def loss(sharpness: np.ndarray) -> float:
        return -log_softmax(sharpness[0] * logits, axis=1)[np.arange(len(targets)), targets].mean()

    wanted = 1 / minimize(loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-9}).x[0]
    found = fit_temperature(probabilities, targets)
    assert found == pytest.approx(wanted, rel=1e-4)
    assert found == pytest.approx(boldness, rel=0.4)
    scaled = tempered(probabilities, found)
    assert log_loss(scaled, targets) <= log_loss(probabilities, targets) + 1e-12
    assert np.array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))
    np.testing.assert_allclose(scaled, softmax(logits / found, axis=1), rtol=1e-9)
    np.testing.assert_allclose(scaled.sum(axis=1), 1, atol=1e-14)


def test_extremes() -> None:
    certain = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert fit_temperature(certain, np.array([0, 1, 1])) == pytest.approx(MAX_TEMPERATURE, rel=1e-3)
    unsure = np.array([[0.6, 0.4], [0.4, 0.6]])
    assert fit_temperature(unsure, np.array([0, 1])) == pytest.approx(MIN_TEMPERATURE, rel=1)
    assert np.isfinite(tempered(certain, MIN_TEMPERATURE)).all()
    np.testing.assert_allclose(tempered(unsure, 1.0), unsure, rtol=1e-15)


@pytest.mark.parametrize("part", ["", "fold_2", "fold_2/checkpoint_best.pth"])
def test_predictions_are_scaled_by_the_configs_temperature(
    part: str, run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    plain, scaled = tmp_path / "plain.csv", tmp_path / "scaled.csv"
    predict(run / "folds" / part, "--images", images, "--output", plain)
    shown = predict(run / "folds" / part, "--images", images, "--output", scaled, "--calibrate")
    pattern = r"T = (\S+), fitted on 30 .* NLL (\S+) → (\S+), ECE (\S+) → (\S+)"
    temperature, before, after, *errors = map(float, re.search(pattern, shown).groups())
    assert after <= before
    assert all(0 <= error <= 1 for error in errors)
    folds = [read_table(run / f"folds/fold_{k}/predictions.csv") for k in (1, 2, 3)]
    probabilities = np.concatenate([fold.probabilities for fold in folds])
    names = [column.removeprefix("prob_") for column in folds[0].columns[3:]]
    labels = [Path(path).parent.name for fold in folds for path in fold.paths]
    targets = np.array([names.index(label) for label in labels])
    assert temperature == pytest.approx(fit_temperature(probabilities, targets), rel=1e-3)
    assert before == pytest.approx(log_loss(probabilities, targets), abs=1e-4)
    answers = read_table(scaled)
    if part:
        wanted = tempered(read_table(plain).probabilities, calibrate(run / "folds").temperature)
        np.testing.assert_allclose(answers.probabilities, wanted, rtol=1e-9)
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1, atol=1e-12)
    assert not np.allclose(answers.probabilities, read_table(plain).probabilities, atol=1e-4)


def test_where_no_best_model_was_kept_the_last_one_is_calibrated(run: Path) -> None:
    found = calibrate(run / "no_best")
    last = read_table(run / "no_best/fold_1/predictions_last.csv")
    assert found.n == len(last.paths)


def test_what_cannot_be_calibrated(
    run: Path, images: Path, predict: Callable[..., str], tmp_path: Path
) -> None:
    alone = tmp_path / "a/b/model.pth"
    alone.parent.mkdir(parents=True)
    shutil.copy(run / "folds/fold_1/checkpoint_best.pth", alone)
    shown = predict(alone, "--images", images, "--calibrate", check=2)
    assert "not in the result folder of a config" in shown
    config = Path(shutil.copytree(run / "folds", tmp_path / "folds"))
    for path in config.glob("fold_*/predictions.csv"):
        rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
        names = [name.removeprefix("prob_") for name in rows[0][3:]]
        right = [
            [*row[:2], row[1], *("1.0" if name == row[1] else "0.0" for name in names)]
            for row in rows[1:]
        ]
        lines = [",".join(row) for row in [rows[0], *right]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    shown = predict(config, "--images", images, "--calibrate", check=2)
    assert "all 30 out-of-fold predictions" in shown
    (config / "fold_2/predictions.csv").unlink()
    assert "predictions.csv is missing" in predict(
        config, "--images", images, "--calibrate", check=2
    )
