"""Measures of features against scikit-learn, numpy and what is known of simple cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from clip_pkg.metrics import representation
from clip_pkg.metrics.representation import (
    alignment,
    effective_rank,
    feature_std,
    neighbour_accuracy,
    probe_accuracy,
    uniformity,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_alignment_is_the_mean_squared_distance_of_unit_vectors() -> None:
    a, b = random(9, 4), random(9, 4, seed=1)
    expected = np.mean(np.sum((normalize(a) - normalize(b)) ** 2, axis=1))
    assert alignment(a, b) == pytest.approx(expected)
    assert alignment(a, 3 * a) == pytest.approx(0)


def test_uniformity_is_taken_over_pairs_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(23, 4)
    pairs = [
        np.exp(-2 * np.sum((a - b) ** 2))
        for n, a in enumerate(normalize(x))
        for b in normalize(x)[:n]
    ]
    monkeypatch.setattr(representation, "CHUNK", 5)
    assert uniformity(x) == pytest.approx(math.log(np.mean(pairs)))
    assert uniformity(torch.ones(6, 3)) == pytest.approx(0)
    assert uniformity(torch.ones(1, 3)) is None


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_effective_rank_is_e_to_the_entropy_of_the_singular_values(
    rows: int, columns: int, seed: int
) -> None:
    x = random(rows, columns, seed=seed)
    shares = np.linalg.svd(x.numpy(), compute_uv=False)
    shares /= shares.sum()
    expected = math.exp(-sum(p * math.log(p) for p in shares if p > 0))
    assert effective_rank(x) == pytest.approx(expected, rel=1e-5)


def test_effective_rank_of_known_matrices() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.ones(9, 5)) == pytest.approx(1, abs=1e-5)
    assert effective_rank(torch.zeros(9, 5)) == 1.0


def test_spread_of_features_on_a_sphere() -> None:
    assert feature_std(random(5000, 16)) == pytest.approx(0.25, rel=0.01)
    assert feature_std(torch.ones(8, 16)) == pytest.approx(0)


def test_neighbours_vote_as_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    classes, centres = torch.arange(90) % 3, 0.5 * random(3, 6, seed=3)
    x = centres[classes] + random(90, 6)
    known, asked = slice(0, 60), slice(60, 90)
    reference = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07)
    )
    reference.fit(x[known], classes[known])
    monkeypatch.setattr(representation, "CHUNK", 7)
    mine = neighbour_accuracy(x[known], classes[known], x[asked], classes[asked])
    assert mine == pytest.approx(reference.score(x[asked], classes[asked]))
    assert 0.34 < mine < 1
    few, own = torch.eye(3), torch.arange(3)  # fewer images than neighbours
    assert neighbour_accuracy(few, own, few, own) == 1


def test_the_probe_is_a_ridge_regression() -> None:
    classes = torch.arange(120) % 4
    x = random(4, 8, seed=3)[classes] + random(120, 8)
    x[:, 5] = 1.0  # a feature that does not vary
    known, asked = slice(0, 80), slice(80, 120)
    scale = StandardScaler().fit(x[known])
    reference = RidgeClassifier(alpha=representation.RIDGE * 80)
    reference.fit(scale.transform(x[known]), classes[known])
    mine = probe_accuracy(x[known], classes[known], x[asked], classes[asked])
    assert mine == pytest.approx(reference.score(scale.transform(x[asked]), classes[asked]))
    assert 0.3 < mine < 1
