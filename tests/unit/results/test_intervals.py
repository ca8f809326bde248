"""Intervals of scores: against statsmodels, at the edges, and how often they cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from clip_pkg.metrics.table import METRICS
from clip_pkg.results.bootstrap import resample
from clip_pkg.results.comparison_records import Interval, Pooled
from clip_pkg.results.intervals import (
    Optimism,
    ScoreIntervals,
    difference_interval,
    score_intervals,
    wilson,
)

NO_IMAGES = ("ece",)


def intervals_of(
    probabilities: np.ndarray, targets: np.ndarray, clusters: Any = None, **options: Any
) -> ScoreIntervals:
    resampled = resample(probabilities, targets, clusters, resamples=200)
    assert resampled is not None
    return score_intervals(probabilities, targets, resampled, **options)


def certain(answers: list[int], classes: int = 3) -> np.ndarray:
    """Probabilities of a classifier that gives these answers."""
    return np.full((len(answers), classes), 0.1) + np.eye(classes)[answers] * (1 - 0.1 * classes)


@given(st.integers(1, 400), st.data(), st.floats(0.5, 0.999))
def test_wilson_equals_statsmodels(n: int, data: st.DataObject, level: float) -> None:
    hits = data.draw(st.integers(0, n))
    ours = tuple(map(float, wilson(hits / n, n, level)))
    assert ours == pytest.approx(proportion_confint(hits, n, 1 - level, "wilson"), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 4), st.integers(0, 2**32 - 1), st.floats(0, 8), st.booleans())
def test_every_interval_has_a_width_and_holds_the_score(
    classes: int, seed: int, skill: float, grouped: bool
) -> None:
    random = np.random.default_rng(seed)
    targets = np.repeat(np.arange(classes), random.integers(2, 12, classes))
    logits = random.normal(size=(len(targets), classes)) + skill * np.eye(classes)[targets]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    clusters = np.arange(len(targets)) // 2 if grouped else None
    found = intervals_of(probabilities, targets, clusters)
    for name, value in found.values.items():
        interval = found.scores[name]
        if name not in ("log_loss", "brier"):
            assert (interval is None) == (value is None or name in NO_IMAGES), name
        if interval is not None and value is not None:
            assert interval.low <= value <= interval.high, name
            assert interval.high > interval.low, name
            low, high = METRICS[name].bounds
            assert low is None or interval.low >= low
            assert high is None or interval.high <= high * METRICS[name].factor
    for rows in found.by_class.values():
        assert all(row is not None and 0 <= row.low < row.high <= 1 for row in rows)


def test_all_right_is_not_certain() -> None:
    answers = [0] * 20 + [1] * 5
    found = intervals_of(certain(answers), np.array(answers))
    acc, rare = found.scores["acc"], found.by_class["recall"][1]
    assert acc is not None
    assert rare is not None
    assert (acc.low, acc.high) == pytest.approx((86.68, 100.0), abs=0.01)
    assert (rare.low, rare.high) == pytest.approx((0.5655, 1.0), abs=1e-4)
    balanced = found.scores["balanced_acc"]
    assert balanced is not None
    assert 75 < balanced.low < 80


def test_copies_of_images_tell_no_more_than_the_images() -> None:
    random = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], [40, 20, 10])
    probabilities = random.dirichlet(np.ones(3), len(targets)) + np.eye(3)[targets]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    copies = np.repeat(probabilities, 6, axis=0), np.repeat(targets, 6)
    once = intervals_of(probabilities, targets)
    together = intervals_of(*copies, np.repeat(np.arange(len(targets)), 6))
    alone = intervals_of(*copies)
    for name in ("acc", "balanced_acc", "f1", "auroc", "mAP"):
        widths = []
        for found in (once, together, alone):
            interval = found.scores[name]
            assert interval is not None
            widths.append(interval.high - interval.low)
        assert widths[1] == pytest.approx(widths[0], rel=0.25), name
        assert widths[2] < 0.7 * widths[0], name


def test_optimism_moves_the_score_and_its_interval() -> None:
    answers = [0] * 50 + [1] * 50
    wrong = answers[:-10] + [0] * 10
    p, y = certain(wrong), np.array(answers)
    removed = Optimism(
        {name: 0.1 if name == "acc" else 0.0 for name in METRICS},
        dict.fromkeys(
            ("precision", "recall", "f1", "specificity", "average_precision", "auroc"), np.zeros(3)
        ),
    )
    found = intervals_of(p, y, optimism=removed)
    assert found.values["acc"] == pytest.approx(80.0)
    acc = found.scores["acc"]
    assert acc is not None
    expected = proportion_confint(80, 100, method="wilson")
    assert (acc.low / 100, acc.high / 100) == pytest.approx(expected, abs=1e-9)


def test_a_difference_of_equal_halves() -> None:
    a, b = Pooled(80.0, Interval(70, 88)), Pooled(75.0, Interval(64, 84))
    apart = difference_interval(a, b, 0.0)
    assert apart is not None
    # Zou & Donner 2008, their formula for independent proportions.
    assert apart.low == pytest.approx(5 - np.hypot(10, 9))
    assert apart.high == pytest.approx(5 + np.hypot(8, 11))
    alike = difference_interval(a, b, 0.9)
    assert alike is not None
    assert alike.high - alike.low < 0.6 * (apart.high - apart.low)
    assert difference_interval(Pooled(None, None), b, 0.0) is None


def test_they_cover_what_they_claim() -> None:
    """A rough check in one world; `benchmarks/coverage.py` measures more of them."""
    random = np.random.default_rng(1)
    sizes, skill = (60, 15, 8), np.array([2.5, 1.8, 1.5])

    def draw(sizes: Any) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(np.arange(3), sizes)
        z = random.normal(size=(len(y), 3)) + np.eye(3)[y] * skill[y][:, None]
        return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), y

    truth = intervals_of(*draw(np.array(sizes) * 500)).values
    covered = dict.fromkeys(("acc", "balanced_acc", "f1", "auroc", "mAP"), 0)
    repeats = 60
    for _ in range(repeats):
        found = intervals_of(*draw(sizes))
        for name in covered:
            interval, value = found.scores[name], truth[name]
            assert interval is not None
            assert value is not None
            covered[name] += interval.low <= value <= interval.high
    assert all(hits >= 0.85 * repeats for hits in covered.values()), covered
