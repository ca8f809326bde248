"""Several classifiers on several data sets, by their ranks.

Demšar 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets", section 3.2.2.

Legend: N data sets, K classifiers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from clip_pkg.base.files import write_with
from clip_pkg.results import sentences
from clip_pkg.results.comparison_records import (
    AcrossDataSets,
    DataSetComparison,
    Question,
    Refusal,
)

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


INK = "#222222"
WIDTH = 8.0  # inches
NAME_STEP, BAR_STEP = 0.32, 0.16  # inches between names, between bars
MARGIN = 0.45  # of the ranks' range, left and right, for names


def write_rank_diagram(path: Path, across: AcrossDataSets) -> None:
    """Draw it as SVG or PDF, as the suffix says; equal numbers give equal files."""
    # Text stays text in SVG, can be selected and searched; ids do not depend on the moment.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "rank diagram"}):
        figure = rank_diagram(across)
        kind = path.suffix.lower().removeprefix(".")
        date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        write_with(  # tight: long names widen the page
            path,
            lambda stream: figure.savefig(stream, format=kind, metadata=date, bbox_inches="tight"),
        )


def rank_diagram(across: AcrossDataSets) -> Figure:
    """Draw the configs' mean ranks, 1 on the left, with the critical difference above the axis."""
    assert across.critical_difference is not None
    count = len(across.configs)
    half = (count + 1) // 2
    bars = len(across.cliques) * BAR_STEP
    below = bars + half * NAME_STEP + 0.3
    height = below + 0.9
    figure = Figure(figsize=(WIDTH, height))
    span = max(count - 1, 1)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(1 - MARGIN * span, count + MARGIN * span)
    axes.set_ylim(-below, 0.9)
    axes.axis("off")
    _axis(axes, count, across.critical_difference)
    for number, members in enumerate(across.cliques):
        ends = [across.mean_ranks[member] for member in members]
        level = -0.14 - number * BAR_STEP
        reach = 0.012 * span
        axes.plot([min(ends) - reach, max(ends) + reach], [level, level], color=INK, lw=3.5)
    _names(axes, across, bars)
    return figure


def _axis(axes: Axes, count: int, critical_difference: float) -> None:
    axes.plot([1, count], [0, 0], color=INK, lw=1)
    for rank in range(1, count + 1):
        axes.plot([rank, rank], [0, 0.09], color=INK, lw=1)
        axes.text(rank, 0.13, str(rank), ha="center", va="bottom", fontsize=9, color=INK)
    end = 1 + critical_difference
    axes.plot([1, end], [0.55, 0.55], color=INK, lw=1.5, clip_on=False)
    for place in (1, end):
        axes.plot([place, place], [0.5, 0.6], color=INK, lw=1.5, clip_on=False)
    text = f"critical difference {critical_difference:.2f}"
    axes.text((1 + end) / 2, 0.62, text, ha="center", va="bottom", fontsize=9, color=INK)


def _names(axes: Axes, across: AcrossDataSets, bars: float) -> None:
    """Names left and right, each tied to its rank: the better half left, from top to bottom."""
    order = sorted(range(len(across.configs)), key=lambda index: across.mean_ranks[index])
    half = (len(order) + 1) // 2
    span = max(len(order) - 1, 1)
    left, right = 1 - 0.04 * span, len(order) + 0.04 * span
    for place, index in enumerate(order):
        rank, is_left = across.mean_ranks[index], place < half
        step = place if is_left else len(order) - 1 - place
        level = -bars - 0.35 - step * NAME_STEP
        edge = left if is_left else right
        axes.plot([rank, rank, edge], [0, level, level], color=INK, lw=0.8)
        axes.text(
            edge + (-0.01 if is_left else 0.01) * span,
            level,
            f"{across.configs[index]}  {rank:.2f}",
            ha="right" if is_left else "left",
            va="center",
            fontsize=9,
            color=INK,
            parse_math=False,  # a name with dollar signs is a name
        )


def compare_across(
    sets: Sequence[DataSetComparison], question: Question
) -> AcrossDataSets | Refusal:
    """Rank the configs that every one of two and more data sets has, complete and by one name.

    Returns why not where there are fewer than two of them.
    """
    found = [_means(one, question) for one in sets]
    shared = [name for name in found[0] if all(name in means for means in found)]
    if len(shared) < 2:
        names = tuple(row.name for one in sets for row in one.rows)
        listed = "; ".join(f"{one.name}: {', '.join(r.config for r in one.rows)}" for one in sets)
        return Refusal(
            names,
            "these are different images, and a difference between them is none between configs "
            f"({listed}). Across data sets, configs are compared by rank if two or more of the "
            "same name are complete on each",
        )
    scores = np.array([[means[name] for name in shared] for means in found])
    up = -scores if question.lower_is_better else scores
    mean_ranks = tuple(ranks(up).mean(axis=0).tolist())
    test, critical = None, None
    groups: tuple[tuple[int, ...], ...] = ()
    if len(shared) >= FEWEST:
        test = friedman_test(up, seed=question.seed)
        critical = nemenyi_critical_difference(len(shared), len(sets), alpha=1 - question.level)
        groups = cliques(mean_ranks, critical)
    across = AcrossDataSets(
        data_sets=tuple(one.name for one in sets),
        configs=tuple(shared),
        scores=tuple(tuple(row) for row in scores.tolist()),
        mean_ranks=mean_ranks,
        friedman=test,
        critical_difference=critical,
        cliques=groups,
        sentence="",
    )
    return replace(across, sentence=sentences.across_sets(across, question.level))


def _means(one: DataSetComparison, question: Question) -> Mapping[str, float]:
    """Scores of the complete configs whose name is there once."""
    times = Counter(row.config for row in one.rows)
    means = {
        row.config: row.spread(question).mean
        for row in one.rows
        if row.folds_done == row.n_folds and times[row.config] == 1
    }
    return {name: mean for name, mean in means.items() if mean is not None}
