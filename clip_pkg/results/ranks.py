"""Several classifiers on several data sets, by their ranks.

Demšar 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets", section 3.2.2.

Legend: N data sets, K classifiers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from clip_pkg.results import sentences
from clip_pkg.results.comparison_records import (
    AcrossDataSets,
    DataSetComparison,
    Question,
    Refusal,
)

PERMUTATIONS = 20_000
MIN_CONFIGS = 3  # of Friedman's test

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FriedmanTest:
    """Friedman's test that K classifiers have equal mean ranks over N data sets.

    chi_square, p_chi_square: corrected for ties, K − 1 degrees of freedom.
    f, p_f: Iman & Davenport's; None where all data sets agree completely and F is undefined.
    p: share of random orders within the data sets that are at least as uneven, from 20,000 seeded
        permutations; valid for any N and K, and what findings are based on.
    """

    chi_square: float
    p_chi_square: float
    f: float | None
    p_f: float | None
    p: float
    n_data_sets: int
    n_configs: int


def compare_across(
    sets: Sequence[DataSetComparison], question: Question
) -> AcrossDataSets | Refusal:
    """Rank the configs that are complete, under one name, on each of two or more data sets.

    Returns the reason where there are fewer than two of them.
    """
    found = [_means(one, question) for one in sets]
    common = [name for name in found[0] if all(name in means for means in found)]
    if len(common) < 2:
        names = tuple(row.name for one in sets for row in one.rows)
        listed = "; ".join(f"{one.name}: {', '.join(r.config for r in one.rows)}" for one in sets)
        return Refusal(
            names,
            f"configs of different images cannot be compared directly ({listed}). Across data "
            "sets, configs are compared by rank if two or more of the same name are complete on "
            "each",
        )
    scores = np.array([[means[name] for name in common] for means in found])
    higher_is_better = -scores if question.lower_is_better else scores
    mean_ranks = tuple(ranks(higher_is_better).mean(axis=0).tolist())
    test, critical = None, None
    groups: tuple[tuple[int, ...], ...] = ()
    if len(common) >= MIN_CONFIGS:
        test = friedman_test(higher_is_better, seed=question.seed)
        critical = nemenyi_critical_difference(len(common), len(sets), alpha=1 - question.level)
        groups = cliques(mean_ranks, critical)
    across = AcrossDataSets(
        data_sets=tuple(one.name for one in sets),
        configs=tuple(common),
        scores=tuple(tuple(row) for row in scores.tolist()),
        mean_ranks=mean_ranks,
        friedman=test,
        critical_difference=critical,
        cliques=groups,
        sentence="",
    )
    return replace(across, sentence=sentences.across_sets(across, question.level))


def _means(one: DataSetComparison, question: Question) -> Mapping[str, float]:
    """Scores of the complete configs whose name is unique in the data set."""
    times = Counter(row.config for row in one.rows)
    means = {
        row.config: row.spread(question).mean
        for row in one.rows
        if row.folds_done == row.n_folds and times[row.config] == 1
    }
    return {name: mean for name, mean in means.items() if mean is not None}


def ranks(scores: Floats) -> Floats:
    """Ranks within each row of [N, K], 1 for the highest; ties share their mean rank."""
    ranked: Floats = stats.rankdata(-scores, axis=1)
    return ranked


def friedman_test(scores: Floats, *, seed: int = 0) -> FriedmanTest:
    """Test [N, K] scores, higher is better; N ≥ 2, K ≥ 3.

    χ² is scipy's; F = (N − 1)·χ² / (N(K − 1) − χ²) (Iman & Davenport 1980).
    """
    sets, configs = scores.shape
    if sets < 2 or configs < MIN_CONFIGS:
        raise ValueError("Friedman's test needs two data sets and three configs")
    own = ranks(scores)
    if (own == own[0, 0]).all():  # ties everywhere: scipy would divide 0 by 0
        return FriedmanTest(0.0, 1.0, 0.0, 1.0, 1.0, sets, configs)
    statistic, p_chi_square = map(float, stats.friedmanchisquare(*own.T))
    rest = sets * (configs - 1) - statistic
    f = (sets - 1) * statistic / rest if rest > 1e-9 * statistic else None
    degrees = (configs - 1, (configs - 1) * (sets - 1))
    random = np.random.default_rng(seed)
    shuffled = random.permuted(np.broadcast_to(own, (PERMUTATIONS, *own.shape)), axis=2)
    sums = np.concatenate([own.sum(axis=0)[None], shuffled.sum(axis=1)])
    unevenness = ((sums - sums.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    as_uneven = int((unevenness[1:] >= unevenness[0] * (1 - 1e-9)).sum())
    return FriedmanTest(
        chi_square=statistic,
        p_chi_square=p_chi_square,
        f=f,
        p_f=None if f is None else float(stats.f.sf(f, *degrees)),
        p=(1 + as_uneven) / (1 + PERMUTATIONS),
        n_data_sets=sets,
        n_configs=configs,
    )


def nemenyi_critical_difference(configs: int, sets: int, *, alpha: float = 0.05) -> float:
    """Smallest significant difference of mean ranks, for all pairs at once.

    Nemenyi 1963; Demšar 2006, section 3.2.2: q_α·√(K(K + 1)/(6N)), q_α from the Studentized range
    divided by √2.
    """
    q = float(stats.studentized_range.ppf(1 - alpha, configs, np.inf)) / math.sqrt(2)
    return q * math.sqrt(configs * (configs + 1) / (6 * sets))


def cliques(mean_ranks: Sequence[float], critical_difference: float) -> tuple[tuple[int, ...], ...]:
    """Maximal groups of two or more whose ranks lie within the critical difference, by position.

    They are the bars of a critical-difference diagram.
    """
    order = sorted(range(len(mean_ranks)), key=lambda index: (mean_ranks[index], index))
    found: list[tuple[int, ...]] = []
    for start, first in enumerate(order):
        near = [i for i in order[start:] if mean_ranks[i] - mean_ranks[first] < critical_difference]
        if len(near) > 1 and not any(set(near) <= set(one) for one in found):
            found.append(tuple(near))
    return tuple(found)
