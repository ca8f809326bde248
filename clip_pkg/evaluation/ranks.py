"""Several classifiers on several data sets, by their ranks.

Demšar 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets", section 3.2.2.

Legend: N data sets, K classifiers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

PERMUTATIONS = 20_000
FEWEST = 3  # classifiers: two have no order that could surprise

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FriedmanTest:
    """Friedman's test that K classifiers have equal mean ranks over N data sets.

    chi_square: corrected for ties, K − 1 degrees of freedom; p_chi_square: by that distribution.
    f, p_f: Iman & Davenport's; None where all data sets agree completely and it has no value.
    p: share of random orders within the data sets that are as far from equal, from 20,000 seeded
        permutations; right for any N and K, and what findings go by.
    """

    chi_square: float
    p_chi_square: float
    f: float | None
    p_f: float | None
    p: float
    n_data_sets: int
    n_configs: int


def ranks(scores: Floats) -> Floats:
    """Ranks within each row of [N, K], 1 for the highest, ties shared."""
    ranked: Floats = stats.rankdata(-scores, axis=1)
    return ranked


def friedman_test(scores: Floats, *, seed: int = 0) -> FriedmanTest:
    """Test [N, K] scores, higher is better; N ≥ 2, K ≥ 3.

    Demšar 2006: χ²_F = 12N/(K(K + 1))·(Σ_j R_j² − K(K + 1)²/4) with mean ranks R_j, here corrected
    for ties, and F_F = (N − 1)·χ²_F / (N(K − 1) − χ²_F) (Iman & Davenport 1980).
    """
    sets, configs = scores.shape
    if sets < 2 or configs < FEWEST:
        raise ValueError("Friedman's test needs two data sets and three configs")
    own = ranks(scores)
    spread = float(((own - (configs + 1) / 2) ** 2).sum())
    if spread == 0:  # nobody is ever better than anybody
        return FriedmanTest(0.0, 1.0, 0.0, 1.0, 1.0, sets, configs)
    found = _unevenness(own.sum(axis=0))
    statistic = float((configs - 1) * found / spread)
    room = sets * (configs - 1) - statistic
    f = (sets - 1) * statistic / room if room > 1e-9 * statistic else None
    degrees = (configs - 1, (configs - 1) * (sets - 1))
    random = np.random.default_rng(seed)
    shuffled = random.permuted(np.broadcast_to(own, (PERMUTATIONS, *own.shape)), axis=2)
    as_far = int((_unevenness(shuffled.sum(axis=1)) >= found * (1 - 1e-9)).sum())
    return FriedmanTest(
        chi_square=statistic,
        p_chi_square=float(stats.chi2.sf(statistic, configs - 1)),
        f=f,
        p_f=None if f is None else float(stats.f.sf(f, *degrees)),
        p=(1 + as_far) / (1 + PERMUTATIONS),
        n_data_sets=sets,
        n_configs=configs,
    )


def nemenyi_critical_difference(configs: int, sets: int, *, alpha: float = 0.05) -> float:
    """Mean ranks that differ by at least this are different, all pairs considered at once.

    Nemenyi 1963; Demšar 2006, section 3.2.2: q_α·√(K(K + 1)/(6N)), q_α from the Studentized range
    divided by √2.
    """
    q = float(stats.studentized_range.ppf(1 - alpha, configs, np.inf)) / math.sqrt(2)
    return q * math.sqrt(configs * (configs + 1) / (6 * sets))


def cliques(mean_ranks: Sequence[float], critical_difference: float) -> tuple[tuple[int, ...], ...]:
    """Largest groups of two and more whose ranks lie within the critical difference, by position.

    They are the bars of a critical-difference diagram.
    """
    order = sorted(range(len(mean_ranks)), key=lambda index: (mean_ranks[index], index))
    found: list[tuple[int, ...]] = []
    reached = 0
    for start, index in enumerate(order):
        end = start
        while end < len(order) and (
            mean_ranks[order[end]] - mean_ranks[index] < critical_difference
        ):
            end += 1
        if end > max(reached, start + 1):
            found.append(tuple(order[start:end]))
            reached = end
    return tuple(found)


def _unevenness(rank_sums: Floats) -> Floats:
    """Sum of squares of the rank sums around their mean, over the last axis."""
    centre = rank_sums.mean(axis=-1, keepdims=True)
    result: Floats = ((rank_sums - centre) ** 2).sum(axis=-1)
    return result
