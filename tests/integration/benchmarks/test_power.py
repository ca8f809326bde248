"""The simulated classifiers are Fisher's, differ as they should, and equal ones seem equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold

from benchmarks import power, results
from benchmarks.power import (
    DISTANCES,
    OWN,
    SHARED,
    balanced,
    design,
    distances,
    fitted,
    right_in_folds,
    simulate,
)


def test_folds_are_classified_as_by_scikit_learn() -> None:
    labels = balanced(120)
    noise = np.random.default_rng(0).normal(size=(120, SHARED + OWN))
    columns = design(noise, labels, 1.0)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(columns, labels))
    found = right_in_folds(columns, labels, np.stack([test for _, test in folds]))
    for row, (train, test) in zip(found, folds, strict=True):
        model = LinearDiscriminantAnalysis(solver="lsqr").fit(columns[train, 1:], labels[train])
        assert (row == (model.predict(columns[test, 1:]) == labels[test])).all()


def test_classifiers_differ_by_the_points() -> None:
    apart = distances(80, np.random.default_rng(0))
    assert apart[0] == DISTANCES[1]
    generator, labels, many = np.random.default_rng(1), balanced(80), balanced(2000)
    accuracies = []
    for distance in (apart[0], apart[10]):
        right = []
        for _ in range(150):
            noise = generator.normal(size=(80, SHARED + OWN))
            weights = fitted(design(noise, labels, distance), labels)
            further = design(generator.normal(size=(2000, SHARED + OWN)), many, distance)
            right.append(float((further @ weights * many > 0).mean()))
        accuracies.append(np.mean(right))
    assert accuracies[0] - accuracies[1] == pytest.approx(0.10, abs=0.012)


def test_only_true_differences_are_found() -> None:
    found = simulate(200, 5, data_sets=120, seed=3)
    assert found.rate(0, 1) <= 0.08
    assert found.rate(10, 4) > found.rate(5, 1) > found.rate(0, 1)
    assert 0.1 < found.disagreement < 0.4


def test_it_writes_its_section(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = tmp_path / "RESULTS.md"
    for name, values in (("SIZES", (100,)), ("FOLDS", (5,)), ("DRAWS", 20)):
        monkeypatch.setattr(power, name, values)
    monkeypatch.setattr(power, "write_section", lambda n, b: results.write_section(n, b, written))
    power.main(["--data-sets", "5", "--write"])
    body = results.section(written.read_text(encoding="utf-8"), "power")
    assert body is not None
    assert "| 100 | 5 | 4 |" in body
