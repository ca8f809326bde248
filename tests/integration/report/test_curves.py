"""Curves against scikit-learn and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_curve

from clip_pkg.metrics.calibration import expected_calibration_error
from clip_pkg.report.curves import (
    Band,
    Reliability,
    macro_band,
    over_epochs,
    precision_at,
    roc_at,
)
from clip_pkg.study.predictions import Predictions

GRID = np.linspace(0, 1, 41)


def answers(seed: int, n: int = 40, classes: int = 3) -> Predictions:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(classes), n).round(2)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    names = tuple(f"c{one}" for one in range(classes))
    paths = tuple(f"{seed}_{one}" for one in range(n))
    return Predictions(names, paths, np.arange(n) % classes, probabilities)


@pytest.mark.parametrize("digits", [1, 9])
def test_curves_on_a_grid(digits: int) -> None:
    random = np.random.default_rng(0)
    positive = random.random(60) < 0.3
    scores = (random.random(60) + positive / 2).round(digits)
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    inside = GRID[~np.isin(GRID, fpr)]  # at a jump both ends are right
    np.testing.assert_allclose(roc_at(inside, positive, scores), np.interp(inside, fpr, tpr))
    assert roc_at(GRID, positive, scores)[-1] == 1
    assert roc_at(GRID, positive, scores)[0] == tpr[fpr == 0].max()
    fine = (np.arange(20_000) + 0.5) / 20_000
    area = precision_at(fine, positive, scores).mean()
    assert area == pytest.approx(average_precision_score(positive, scores), abs=1e-3)


def test_bands_are_over_folds() -> None:
    folds = [answers(seed) for seed in range(3)]
    band = macro_band(folds, roc_at)
    by_hand = []
    for fold in folds:
        curves = []
        for label in range(3):
            fpr, tpr, _ = roc_curve(fold.targets == label, fold.probabilities[:, label])
            curves.append(np.interp(band.x + 1e-9, fpr, tpr))
        by_hand.append(np.mean(curves, axis=0))
    np.testing.assert_allclose(band.mean, np.mean(by_hand, axis=0), atol=1e-6)
    np.testing.assert_allclose(band.deviation, np.std(by_hand, axis=0, ddof=1), atol=1e-6)


def test_a_class_that_a_fold_lacks_does_not_count() -> None:
    fold = answers(0)
    without = Predictions(
        (*fold.classes, "absent"),
        fold.paths,
        fold.targets,
        np.hstack([fold.probabilities, np.zeros((len(fold.paths), 1))]),
    )
    np.testing.assert_allclose(
        macro_band([without], precision_at).mean, macro_band([fold], precision_at).mean
    )


def test_epochs_that_some_folds_did_not_reach() -> None:
    band = over_epochs(
        [{"val_acc": [1.0, 3.0]}, {"val_acc": [2.0]}, {"val_acc": [None]}], "val_acc"
    )
    assert band is not None
    np.testing.assert_allclose(band.mean, [1.5, 3.0])
    np.testing.assert_allclose(band.deviation, [np.std([1, 2], ddof=1), 0])
    assert over_epochs([{"val_acc": [None]}], "val_acc") is None
    assert over_epochs([{}], "val_acc") is None


def test_one_fold_has_no_deviation() -> None:
    band = Band.over(np.array([1.0]), np.array([[4.0]]))
    assert (band.mean[0], band.deviation[0]) == (4, 0)


def test_reliability_adds_up_to_the_calibration_error() -> None:
    said = answers(0, n=200)
    found = Reliability.of(said)
    assert found.counts.sum() == 200
    error = (found.counts * np.abs(found.accuracy - found.confidence)).sum() / 200
    assert error == pytest.approx(expected_calibration_error(said.probabilities, said.targets))
    assert (found.low <= found.accuracy).all()
    assert (found.accuracy <= found.high).all()
