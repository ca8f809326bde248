from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.utils.class_weight import compute_class_weight

from clip_pkg.base.errors import DataError
from clip_pkg.config.loss_blocks import WeightMethod
from clip_pkg.data.sampling import (
    epoch_order,
    occurrences,
    steps_per_epoch,
)
from clip_pkg.losses.class_weights import class_weights

COUNTS = [500, 100, 20, 4]
METHODS = get_args(WeightMethod)


def order_of(
    labels: np.ndarray, weights: np.ndarray | None = None, *, seed=1, fold=1, epoch=1, batch=32
) -> np.ndarray:
    return epoch_order(labels, weights, seed=seed, fold=fold, epoch=epoch, batch_size=batch)


def test_inverse_frequency_by_hand() -> None:
    # N = 624, C = 4, smooth = 1
    expected = [624 / (4 * 501), 624 / (4 * 101), 624 / (4 * 21), 624 / (4 * 5)]
    np.testing.assert_allclose(class_weights(COUNTS, "inverse_freq"), expected)
    np.testing.assert_allclose(class_weights(COUNTS, "inverse_sqrt"), np.sqrt(expected))
    np.testing.assert_allclose(
        class_weights(COUNTS, "inverse_freq", smooth=0), [624 / (4 * n) for n in COUNTS]
    )


def test_balanced_is_scikit_learns() -> None:
    labels = np.repeat(np.arange(4), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(class_weights(COUNTS, "balanced", smooth=5.0), expected)


def test_effective_number_as_in_the_paper() -> None:
    beta = 0.9999
    raw = np.array([(1 - beta) / (1 - beta ** (n + 1.0)) for n in COUNTS])
    weights = class_weights(COUNTS, "effective_number")
    np.testing.assert_allclose(weights, raw / raw.mean(), rtol=1e-9)
    assert weights.mean() == pytest.approx(1)


@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=12),
    st.sampled_from(METHODS),
    st.floats(0, 100),
)
def test_weights_are_finite_and_rarer_classes_weigh_no_less(
    counts: list[int], method: WeightMethod, smooth: float
) -> None:
    weights = class_weights(counts, method, smooth)
    assert weights.shape == (len(counts),)
    assert weights.dtype == np.float64
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    present = [(n, w) for n, w in zip(counts, weights, strict=True) if n > 0]
    for (n, w), (following_n, following_w) in zip(
        sorted(present), sorted(present)[1:], strict=False
    ):
        assert w > 0
        assert n == following_n or w >= following_w * (1 - 1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_images_weighs_nothing_without_smoothing(method: WeightMethod) -> None:
    weights = class_weights([10, 0, 5], method, smooth=0)
    assert weights[1] == 0
    assert (weights[[0, 2]] > 0).all()


def test_shuffling_shows_each_image_once() -> None:
    labels = np.zeros(100, dtype=np.int64)
    order = order_of(labels)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(100))


def test_shuffles_are_uniform_over_permutations() -> None:
    labels = np.zeros(4, dtype=np.int64)
    seen = [tuple(order_of(labels, epoch=epoch)) for epoch in range(4800)]
    _, counts = np.unique(seen, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_weighted_draws_have_the_weights_frequencies() -> None:
    labels = np.repeat(np.arange(4), COUNTS)
    weights = class_weights(COUNTS, "inverse_sqrt")
    drawn = np.concatenate([order_of(labels, weights, epoch=epoch) for epoch in range(40)])
    probability = weights[labels] / weights[labels].sum()
    by_class = np.bincount(labels[drawn], minlength=4)
    expected = np.bincount(labels, weights=probability) * len(drawn)
    assert stats.chisquare(by_class, expected).pvalue > 1e-4
    by_image = np.bincount(drawn, minlength=len(labels))
    assert stats.chisquare(by_image, probability * len(drawn)).pvalue > 1e-4


def test_balanced_sampling_shows_each_class_equally() -> None:
    labels = np.repeat(np.arange(4), COUNTS)
    weights = class_weights(COUNTS, "balanced")
    drawn = np.concatenate([order_of(labels, weights, epoch=epoch) for epoch in range(20)])
    assert stats.chisquare(np.bincount(labels[drawn])).pvalue > 1e-4


def test_images_of_weight_zero_are_never_drawn() -> None:
    labels = np.array([0, 1, 0, 1, 2, 2])
    weights = np.array([0.0, 1.0, 0.0])
    drawn = np.concatenate([order_of(labels, weights, epoch=epoch) for epoch in range(50)])
    assert set(drawn.tolist()) == {1, 3}


@pytest.mark.parametrize("weights", [None, np.array([1.0, 3.0])])
def test_orders_repeat_under_their_key_and_differ_otherwise(weights: np.ndarray | None) -> None:
    labels = np.arange(200) % 2
    np.random.seed(0)  # the global generator plays no part
    first = order_of(labels, weights)
    np.random.seed(1)
    np.testing.assert_array_equal(first, order_of(labels, weights))
    for other in ({"seed": 2}, {"fold": 2}, {"epoch": 2}):
        assert (order_of(labels, weights, **other) != first).mean() > 0.5


@given(st.integers(2, 300), st.integers(2, 64), st.booleans())
def test_no_training_batch_has_one_image(count: int, batch: int, weighted: bool) -> None:
    labels = np.arange(count) % 2
    order = order_of(labels, np.ones(2) if weighted else None, batch=batch)
    sizes = [len(order[first : first + batch]) for first in range(0, len(order), batch)]
    assert min(sizes) >= 2
    assert len(sizes) == steps_per_epoch(count, batch)
    assert len(order) == count - (count % batch == 1)


@pytest.mark.parametrize("count", [0, 1])
def test_too_small_a_fold_is_an_error(count: int) -> None:
    with pytest.raises(DataError, match=r"fold 3 has .* needs at least 2"):
        order_of(np.zeros(count, dtype=np.int64), fold=3)


def test_weights_of_zero_everywhere_are_an_error() -> None:
    with pytest.raises(DataError, match="weight 0"):
        order_of(np.zeros(5, dtype=np.int64), np.zeros(1))


@given(st.lists(st.integers(0, 6), max_size=40))
def test_occurrences_count_earlier_equals(values: list[int]) -> None:
    expected = [values[:place].count(value) for place, value in enumerate(values)]
    assert occurrences(np.array(values, dtype=np.int64)).tolist() == expected
