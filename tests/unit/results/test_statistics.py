"""Tests over folds and images: against scipy, statsmodels, published examples; invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from clip_pkg.results.ranks import cliques, friedman_test, nemenyi_critical_difference, ranks
from clip_pkg.results.statistics import (
    corrected_resampled_t_test,
    detectable_difference,
    first_step,
    holm,
    mcnemar_test,
    planned_difference,
)

differences = st.lists(
    st.floats(-100, 100, allow_subnormal=False).map(lambda value: round(value, 6)),
    min_size=2,
    max_size=12,
)


def test_the_corrected_test_by_hand() -> None:
    # 2, 1, 3, 0, 4: mean 2, s² 2.5; the variance of the mean is (1/5 + 1/4)·2.5 = 1.125.
    found = corrected_resampled_t_test([2, 1, 3, 0, 4], test_to_train=0.25)
    t = 2 / math.sqrt(1.125)
    assert found.t == pytest.approx(t)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(t, 4))
    reach = scipy.stats.t.ppf(0.975, 4) * math.sqrt(1.125)
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach))
    assert found.effect == pytest.approx(2 / math.sqrt(2.5))


@settings(deadline=None)
@given(differences)
def test_without_correction_it_is_the_paired_t_test(values: list[float]) -> None:
    found = corrected_resampled_t_test(values, test_to_train=0.0)
    if found.p is None or found.sd == 0:
        assert np.ptp(values) == pytest.approx(0, abs=1e-6)
        return
    theirs = scipy.stats.ttest_1samp(values, 0.0)
    assert found.p == found.p_uncorrected == pytest.approx(theirs.pvalue, rel=1e-6)
    interval = theirs.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6)


def test_folds_that_all_differ_alike_tell_nothing() -> None:
    found = corrected_resampled_t_test([0.1 + 0.2, 0.3, 0.3], test_to_train=0.5)
    assert (found.t, found.p, found.low, found.effect) == (None, None, None, None)
    assert found.difference == pytest.approx(0.3)
    equal = corrected_resampled_t_test([0, 0, 0], test_to_train=0.5)
    assert (equal.p, equal.low, equal.high) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan]])
def test_too_few_differences_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="two finite"):
        corrected_resampled_t_test(values, test_to_train=0.25)


@pytest.mark.parametrize("folds", [3, 5, 10, 40])
def test_a_detectable_difference_is_that_of_statsmodels(folds: int) -> None:
    # Without overlap the standard error is sd/√K, and statsmodels' effect size is difference ÷ sd.
    found = detectable_difference(3.0 / math.sqrt(folds), folds - 1)
    theirs = 3.0 * TTestPower().solve_power(nobs=folds, alpha=0.05, power=0.8)
    assert found == pytest.approx(theirs, rel=1e-5)


def test_a_detectable_difference_is_found_as_often_as_it_says() -> None:
    # Folds as Nadeau and Bengio assume them: equally correlated, by n_test/(n_test + n_train).
    random, folds, correlation = np.random.default_rng(0), 5, 0.2
    error = math.sqrt((1 - correlation) / folds + correlation)
    level = first_step(0.95, 3)
    true = detectable_difference(error, folds - 1, level=level)
    shared, own = random.normal(size=(3000, 1)), random.normal(size=(3000, folds))
    drawn = true + math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    tests = [corrected_resampled_t_test(row, test_to_train=0.25) for row in drawn]
    found = np.mean([test.p is not None and test.p < 0.05 / 3 for test in tests])
    assert found == pytest.approx(0.8, abs=0.025)


@settings(deadline=None)
@given(
    st.integers(10, 10_000),
    st.integers(3, 10),
    st.integers(1, 5),
    st.sampled_from([0.05, 0.2, 0.4]),
)
def test_a_planned_difference_has_the_power(
    images: int, folds: int, repeats: int, disagreement: float
) -> None:
    found = planned_difference(images, n_splits=folds, n_repeats=repeats, disagreement=disagreement)
    assert 0 < found < 1
    variance = (max(disagreement, found) - found**2) * folds / images
    error = math.sqrt(variance * (1 / (folds * repeats) + 1 / (folds - 1)))
    degrees = folds * repeats - 1
    critical = scipy.stats.t.ppf(0.975, degrees)
    power = scipy.stats.nct.sf(critical, degrees, found / error)
    assert power == pytest.approx(0.8, abs=1e-4)


def answers(only_first: int, only_second: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    first = [True] * only_first + [False] * only_second + [True] * both
    second = [False] * only_first + [True] * only_second + [True] * both
    return np.array(first, dtype=bool), np.array(second, dtype=bool)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 20))
def test_mcnemar_equals_statsmodels(first: int, second: int, both: int) -> None:
    found = mcnemar_test(*answers(first, second, both))
    assert (found.only_first_correct, found.only_second_correct) == (first, second)
    assert 0 <= found.p_mid <= found.p_exact <= 1
    assert found.p_exact == mcnemar_test(*answers(second, first, both)).p_exact
    if first + second:
        theirs = mcnemar([[both, first], [second, 0]], exact=True)
        assert found.p_exact == pytest.approx(theirs.pvalue)


def test_mid_p_of_a_published_table() -> None:
    # Fagerland et al. 2013, table 1: 1 against 7; exact 0.0703, mid-p 0.0391.
    found = mcnemar_test(*answers(1, 7, 13))
    assert found.p_exact == pytest.approx(0.0703, abs=5e-5)
    assert found.p_mid == pytest.approx(0.0391, abs=5e-5)
    assert mcnemar_test(*answers(0, 0, 5)).p_mid == 1.0


def test_holm_equals_statsmodels() -> None:
    for p_values in ([0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.02], [1.0, 0.0], [0.2]):
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_pairs_without_a_test_are_not_counted() -> None:
    assert holm([0.01, None, 0.04]) == pytest.approx([0.02, None, 0.04])
    assert holm([]) == []


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 8),
    st.integers(3, 6),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_friedman_equals_scipy(sets: int, configs: int, seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (sets, configs)) if ties else random.random((sets, configs))
    found = friedman_test(scores.astype(float))
    if np.ptp(scores, axis=1).max() == 0:
        assert found.p == 1
        return
    theirs = scipy.stats.friedmanchisquare(*scores.T)
    assert found.chi_square == pytest.approx(theirs.statistic, abs=1e-9)
    assert found.p_chi_square == pytest.approx(theirs.pvalue)
    assert 0 < found.p <= 1


def test_the_permutation_p_is_the_exact_one() -> None:
    # Three configs in the same order on three sets: 6 of the 6³ possible orders are as uneven.
    found = friedman_test(np.array([[3.0, 2, 1], [30, 20, 10], [5, 4, 1]]))
    assert found.p == pytest.approx(6 / 6**3, abs=0.004)
    assert found.f is None
    assert found.chi_square == pytest.approx(6)


def test_demsars_example() -> None:
    # Demšar 2006, section 3.2.2: 4 classifiers, 14 sets, mean ranks 3.143, 2.000, 2.893, 1.964 give
    # χ² = 9.28 before the correction for ties; critical differences q_α·0.488: 2.569 at α 0.05,
    # 2.291 at α 0.10.
    table = np.array(
        [
            [0.763, 0.768, 0.771, 0.798],
            [0.599, 0.591, 0.590, 0.569],
            [0.954, 0.971, 0.968, 0.967],
            [0.628, 0.661, 0.654, 0.657],
            [0.882, 0.888, 0.886, 0.898],
            [0.936, 0.931, 0.916, 0.931],
            [0.661, 0.668, 0.609, 0.685],
            [0.583, 0.583, 0.563, 0.625],
            [0.775, 0.838, 0.866, 0.875],
            [1.000, 1.000, 1.000, 1.000],
            [0.940, 0.962, 0.965, 0.962],
            [0.619, 0.666, 0.614, 0.669],
            [0.972, 0.981, 0.9751, 0.975],
            [0.957, 0.978, 0.946, 0.970],
        ]
    )
    assert ranks(table).mean(axis=0) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert nemenyi_critical_difference(4, 14) == pytest.approx(2.569 * 0.488, abs=1e-3)
    assert nemenyi_critical_difference(4, 14, alpha=0.1) == pytest.approx(2.291 * 0.488, abs=1e-3)
    found = friedman_test(table)
    assert found.chi_square > 9.28
    assert found.f is not None
    assert found.p < 0.05


def test_cliques_are_the_largest_groups_that_cannot_be_told_apart() -> None:
    assert cliques([1.0, 1.5, 2.2, 4.0], 1.0) == ((0, 1), (1, 2))
    assert cliques([3.0, 1.0, 2.0], 5.0) == ((1, 2, 0),)
    assert cliques([1.0, 3.0], 1.0) == ()
