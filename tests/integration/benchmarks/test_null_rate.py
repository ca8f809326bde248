"""Under the null the corrected test keeps its level; the plain one does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from benchmarks import null_rate, results
from benchmarks.null_rate import (
    CORRECTED,
    LEVEL,
    MCNEMAR,
    PLAIN,
    POOLED,
    World,
    centroid_answers,
    cross_validated,
    rates,
)
from clip_pkg.results.statistics import corrected_resampled_t_test


def test_answers_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    train, test = generator.normal(size=(60, 4)) + labels[:, None], generator.normal(size=(40, 4))
    expected = NearestCentroid().fit(train, labels).predict(test)
    assert (centroid_answers(train, labels, test) == expected).all()


def test_equal_classifiers_are_seldom_called_different() -> None:
    found = rates(World(100, 5), repetitions=150, seed=3)
    assert found[CORRECTED] <= 0.07
    assert found[PLAIN] > found[CORRECTED]
    assert found[POOLED] == pytest.approx(found[MCNEMAR], abs=0.05)


def test_repeats_keep_the_level_of_the_corrected_test_only() -> None:
    world, generator = World(60, 3, repeats=4), np.random.default_rng(3)
    found = [
        corrected_resampled_t_test(cross_validated(world, generator)[2], test_to_train=1 / 2)
        for _ in range(400)
    ]
    assert np.mean([(one.p or 0) < LEVEL for one in found]) <= 0.07
    assert np.mean([(one.p_uncorrected or 0) < LEVEL for one in found]) > 0.2


def test_it_writes_its_section(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = tmp_path / "RESULTS.md"
    monkeypatch.setattr(null_rate, "WORLDS", (World(40, 2),))
    monkeypatch.setattr(
        null_rate, "write_section", lambda n, b: results.write_section(n, b, written)
    )
    null_rate.main(["--repetitions", "5", "--write"])
    body = results.section(written.read_text(encoding="utf-8"), "null-rate")
    assert body is not None
    assert "| 40 images in 2 classes, 2 folds |" in body
