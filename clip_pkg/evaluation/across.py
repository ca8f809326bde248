"""The configs that several data sets share, compared by their ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from clip_pkg.evaluation import sentences
from clip_pkg.evaluation.comparison_records import (
    AcrossDataSets,
    DataSetComparison,
    Question,
    Refusal,
)
from clip_pkg.evaluation.ranks import (
    FEWEST,
    cliques,
    friedman_test,
    nemenyi_critical_difference,
    ranks,
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
