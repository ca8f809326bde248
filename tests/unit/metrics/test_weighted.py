"""Weighted scores are the scores of repeated samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_pkg.metrics.classification import classification_metrics
from clip_pkg.metrics.table import METRICS
from clip_pkg.metrics.weighted import weighted_scores


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 40),
    classes=st.integers(1, 6),
    digits=st.sampled_from([1, 8]),  # few digits: many ties
)
def test_weights_are_repetitions(seed: int, count: int, classes: int, digits: int) -> None:
    random = np.random.default_rng(seed)
    targets = random.integers(0, classes, count)
    scores = np.round(random.dirichlet(np.ones(classes), count), digits) + 0.1
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    weights = random.integers(0, 3, (count, 4)).astype(np.float64)
    weights[0] += 1
    found = weighted_scores(probabilities, targets, weights)
    assert list(found.scores) == [name for name, row in METRICS.items() if row.is_resampled]
    for column in range(4):
        repeated = np.repeat(np.arange(count), weights[:, column].astype(int))
        expected = classification_metrics(probabilities[repeated], targets[repeated])
        for name, values in found.scores.items():
            assert values[column] == nearly(expected.scores[name]), name
        for name, rows in found.by_class.items():
            for label, row in enumerate(expected.per_class):
                assert rows[label, column] == nearly(getattr(row, name)), (name, label)


def nearly(value: float | None) -> Any:
    return pytest.approx(np.nan if value is None else value, abs=1e-9, nan_ok=True)


def test_only_what_the_metrics_need_is_computed() -> None:
    generator = np.random.default_rng(0)
    targets = np.arange(40) % 3
    probabilities = generator.dirichlet(np.ones(3), 40)
    weights = generator.integers(0, 3, (40, 7)).astype(float)
    every = weighted_scores(probabilities, targets, weights)
    accuracy = weighted_scores(probabilities, targets, weights, ("acc",))
    ranked = weighted_scores(probabilities, targets, weights, ("auroc",))
    assert "auroc" not in accuracy.by_class
    np.testing.assert_array_equal(accuracy.scores["acc"], every.scores["acc"])
    np.testing.assert_array_equal(ranked.scores["auroc"], every.scores["auroc"])
    assert set(ranked.by_class) == set(every.by_class)
