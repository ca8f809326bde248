"""Tests for two classifiers that were cross-validated on the same folds.

The folds of a cross-validation share most of their training images, so their differences are
correlated and a plain paired t-test rejects too often; its p is given for comparison only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

LEVEL = 0.95
POWER = 0.8
ROUNDING = 1e-9  # relative; differences that vary by less count as equal


@dataclass(frozen=True)
class ResampledTest:
    """Corrected resampled t-test of K paired differences, one per fold of all repeats.

    difference: mean over folds; low, high: its interval at `level`.
    sd: sample standard deviation of the differences.
    standard_error: corrected, sd·√(1/K + n_test/n_train).
    t, p: two-sided, K − 1 degrees of freedom.
    p_uncorrected: of the plain paired t-test, which rejects too often.
    effect: difference ÷ sd (Cohen's d_z).
    t, p, p_uncorrected, effect, low and high are None if all folds differ by the same amount other
    than 0, because the variance cannot be estimated then.
    """

    difference: float
    low: float | None
    high: float | None
    level: float
    sd: float
    standard_error: float
    n_folds: int
    test_to_train: float
    t: float | None
    p: float | None
    p_uncorrected: float | None
    effect: float | None


@dataclass(frozen=True)
class McNemarTest:
    """Images that only one of two classifiers predicts correctly, and the p-value of the imbalance.

    p_exact: two-sided binomial p. p_mid: the mid-p version, less conservative.
    """

    only_first_correct: int
    only_second_correct: int
    p_exact: float
    p_mid: float


def corrected_resampled_t_test(
    differences: Sequence[float], *, test_to_train: float, level: float = LEVEL
) -> ResampledTest:
    """Test whether a mean difference over resampled or cross-validated folds is 0.

    Nadeau & Bengio 2003, "Inference for the Generalization Error": t = d̄ / √(v·s²) with
    v = 1/K + n_test/n_train, where the plain test has v = 1/K. Bouckaert & Frank 2004, "Evaluating
    the replicability of significance tests for comparing learning algorithms", apply it to folds,
    also to those of a repeated cross-validation.

    Args:
        differences: K ≥ 2, one per fold of all repeats.
        test_to_train: n_test/n_train, such as 1/4 with 5 folds.
        level: of the interval.

    Raises:
        ValueError: fewer than two differences, or one that is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    if count < 2 or not np.isfinite(values).all():
        raise ValueError("a test over folds needs at least two finite differences")
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if sd <= ROUNDING * float(np.abs(values).max()):
        sd = 0.0
    error = sd * math.sqrt(1 / count + test_to_train)
    if sd == 0.0:
        known = (0.0, 0.0, 0.0, 1.0, 1.0, 0.0) if mean == 0.0 else (None,) * 6
        low, high, t, p, plain, effect = known
    else:
        reach = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
        low, high = mean - reach, mean + reach
        t, effect = mean / error, mean / sd
        p = _two_sided(t, count - 1)
        plain = _two_sided(mean / (sd * math.sqrt(1 / count)), count - 1)
    return ResampledTest(
        difference=mean,
        low=low,
        high=high,
        level=level,
        sd=sd,
        standard_error=error,
        n_folds=count,
        test_to_train=test_to_train,
        t=t,
        p=p,
        p_uncorrected=plain,
        effect=effect,
    )


def detectable_difference(standard_error: float, degrees: int, *, level: float = LEVEL) -> float:
    """Smallest true difference that a two-sided t-test finds with probability `POWER`.

    Its t has a noncentral t distribution with noncentrality difference ÷ standard error. The
    probability of finding it with the wrong sign, below 1e-6 at these levels, is left out.

    Args:
        standard_error: of the estimated difference; the corrected one for folds.
        degrees: of freedom, K − 1 for K differences.
        level: 1 minus the level of significance.
    """
    critical = stats.t.isf((1 - level) / 2, degrees)
    return standard_error * float(special.nctdtrinc(degrees, 1 - POWER, critical))


def first_step(level: float, pairs: int) -> float:
    """Level at which the smallest of the p-values of `pairs` tests is judged by Holm's method."""
    return 1 - (1 - level) / pairs


def planned_difference(
    n_images: int,
    *,
    n_splits: int,
    n_repeats: int = 1,
    disagreement: float,
    level: float = LEVEL,
) -> float:
    """Difference in accuracy, as a fraction, that cross-validation will find with power `POWER`.

    One of two classifiers alone is right on the share q of the images. If they differ by d, the
    accuracies of a fold with n/K images differ with variance (q − d²)·K/n, whose corrected standard
    error has the factor √(1/(K·R) + 1/(K − 1)). A share smaller than d is impossible; q is then d.

    Args:
        n_images: n, or the images of a class for a difference in its recall.
        n_splits: K ≥ 2.
        n_repeats: R.
        disagreement: q, at least.
        level: as for `detectable_difference`.
    """
    error = math.sqrt((1 / (n_splits * n_repeats) + 1 / (n_splits - 1)) * n_splits / n_images)
    ratio = detectable_difference(error, n_splits * n_repeats - 1, level=level) ** 2
    difference = math.sqrt(ratio * disagreement / (1 + ratio))  # solves d² = ratio·(q − d²)
    return difference if difference <= disagreement else ratio / (1 + ratio)


def mcnemar_test(
    first_correct: NDArray[np.bool_], second_correct: NDArray[np.bool_]
) -> McNemarTest:
    """Exact and mid-p McNemar test of two classifiers on the same images.

    McNemar 1947; Fagerland, Lydersen & Laake 2013, "The McNemar test for binary matched-pairs
    data": if both are equally good, each of the m images that only one predicts correctly is the
    first's with probability ½. Exact: 2·P(X ≤ b) for X ~ Binomial(m, ½) and b the smaller count;
    mid-p: that minus P(X = b). Assumes independent images and fixed models.
    """
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    rarer, total = min(only_first, only_second), only_first + only_second
    up_to = 2 * float(stats.binom.cdf(rarer, total, 0.5))
    exact = min(1.0, up_to)
    mid = min(1.0, up_to - float(stats.binom.pmf(rarer, total, 0.5)))
    return McNemarTest(only_first, only_second, exact, mid)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values so that rejecting those below α keeps the family-wise error rate below α.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure": sorted ascending, the i-th
    of m is multiplied by m − i + 1, and none falls below the one before it. None stays None and is
    not counted.
    """
    known = [index for index, p in enumerate(p_values) if p is not None]
    ordered = sorted(known, key=lambda index: p_values[index] or 0.0)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(ordered):
        largest = max(largest, min(1.0, (len(known) - rank) * (p_values[index] or 0.0)))
        adjusted[index] = largest
    return adjusted


def _two_sided(t: float, degrees: int) -> float:
    return min(1.0, 2 * float(stats.t.sf(abs(t), degrees)))
