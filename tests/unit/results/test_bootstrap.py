"""Bootstrap: against scipy's, with strata, clusters and undefined scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

from clip_pkg.results import bootstrap
from clip_pkg.results.bootstrap import percentile_interval, resample
from clip_pkg.results.comparison_records import Interval


def drawn(count: int = 200, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that are right about two thirds of the time, in unequal classes."""
    random = np.random.default_rng(seed)
    targets = np.sort(random.choice(classes, count, p=np.arange(1, classes + 1) / 6))
    scores = random.dirichlet(np.ones(classes), count)
    scores[np.arange(count), targets] += 0.5
    return scores / scores.sum(axis=1, keepdims=True), targets


def accuracy_interval(*predictions: np.ndarray, **options: Any) -> Interval:
    found = resample(*predictions, **options)
    assert found is not None
    interval = percentile_interval(found.scores["acc"])
    assert interval is not None
    return interval


def test_accuracy_equals_scipys_bootstrap_within_each_class() -> None:
    probabilities, targets = drawn(classes=3)
    correct = (probabilities.argmax(axis=1) == targets).astype(float)
    parts = tuple(correct[targets == label] for label in range(3))
    sizes = np.array([len(part) for part in parts])

    def accuracy(*samples: np.ndarray, axis: int) -> np.ndarray:
        means = np.stack([sample.mean(axis=axis) for sample in samples])
        return np.tensordot(sizes / sizes.sum(), means, axes=1)

    theirs = scipy.stats.bootstrap(
        parts, accuracy, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    ours = accuracy_interval(probabilities, targets, resamples=4000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.008)


def test_every_resample_keeps_the_classes_sizes() -> None:
    _, targets = drawn()
    weights = np.concatenate(list(bootstrap._weights(targets, None, 50, 0)), axis=1)
    for label in range(3):
        assert set(weights[targets == label].sum(axis=0)) == {(targets == label).sum()}


def test_clusters_are_drawn_whole_and_widen_the_interval() -> None:
    probabilities, targets = drawn(90)
    copies = 8
    many = np.repeat(probabilities, copies, axis=0), np.repeat(targets, copies)
    clusters = np.repeat(np.arange(90) + 1000, copies)
    alone = accuracy_interval(*many)
    together = accuracy_interval(*many, clusters=clusters)
    once = accuracy_interval(probabilities, targets)
    assert (together.low, together.high) == pytest.approx((once.low, once.high))
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_the_seed_decides() -> None:
    probabilities, targets = drawn()
    first = accuracy_interval(probabilities, targets, seed=3)
    assert accuracy_interval(probabilities, targets, seed=3) == first
    assert accuracy_interval(probabilities, targets, seed=4) != first


def test_resamples_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, targets = drawn()
    monkeypatch.setattr(bootstrap, "CHUNK", 7 * len(targets))
    found = resample(probabilities, targets, resamples=20)
    assert found is not None
    assert len(found) == 20
    assert all(values.shape == (20,) for values in found.scores.values())


def test_a_few_undefined_resamples_are_borne() -> None:
    values = np.arange(100.0)
    values[:4] = np.nan
    interval = percentile_interval(values, 0.9)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(np.quantile(values[4:], [0.05, 0.95]))
    values[:6] = np.nan
    assert percentile_interval(values, 0.9) is None


def test_large_sets_take_fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, targets = drawn()
    monkeypatch.setattr(bootstrap, "MAX_WORK", probabilities.size * 300)
    found = resample(probabilities, targets)
    assert found is not None
    assert len(found) == 300
    monkeypatch.setattr(bootstrap, "MAX_TABLE", 10)
    assert resample(probabilities, targets) is None
