"""Pairs of configs on identical folds: which of them may be compared, and the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import shown
from clip_pkg.results import sentences
from clip_pkg.results.comparison_records import LeaderboardRow, PairResult, Question, Refusal
from clip_pkg.results.folders import ConfigFiles
from clip_pkg.results.intervals import correlation, difference_interval
from clip_pkg.results.statistics import (
    corrected_resampled_t_test,
    detectable_difference,
    first_step,
    holm,
    mcnemar_test,
)
from clip_pkg.study.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Entrant:
    """A config under its name in the data set.

    predictions: out of fold, sorted by path, those of an image by repeat; None while no fold is
    done. resampled: [R] the compared score for each resample of the images; None for a score
    without a bootstrap.
    """

    files: ConfigFiles
    row: LeaderboardRow
    predictions: Predictions | None
    resampled: NDArray[np.float64] | None


def comparable(entrants: Sequence[Entrant]) -> tuple[list[list[Entrant]], list[Refusal]]:
    """Groups of configs with identical folds and classes, and why other configs are excluded."""
    refusals = []
    groups: dict[tuple[str, tuple[str, ...]], list[Entrant]] = {}
    for one in entrants:
        if missing := one.files.unfinished:
            reason = (
                f"{one.row.name}: {len(missing)} of {one.row.n_folds} folds are unfinished: "
                f"{', '.join(missing)}. Run the same training command again to resume"
            )
            refusals.append(Refusal((one.row.name,), reason))
        else:
            classes = tuple(one.files.folds_info["classes"])
            groups.setdefault((one.row.splits_hash, classes), []).append(one)
    for mine, others in combinations(groups, 2):
        these, those = (tuple(one.row.name for one in groups[key]) for key in (mine, others))
        both = f"{', '.join(these)} and {', '.join(those)}"
        repeats = [groups[key][0].row.n_repeats for key in (mine, others)]
        if mine[0] == others[0]:
            reason = f"{both} have different classes"
        elif repeats[0] != repeats[1]:
            reason = (
                f"{both} were validated on different folds: their n_repeats are {repeats[0]} and "
                f"{repeats[1]}. Train one of them again with the n_repeats of the other"
            )
        else:
            reason = (
                f"{both} were validated on different folds (splits_hash {mine[0][:8]}… and "
                f"{others[0][:8]}…), so their difference is not one between configs. Train one of "
                "them again with --splits-file "
                f"{shown(groups[mine][0].files.paths.root / 'folds_info.json')}"
            )
        refusals.append(Refusal((*these, *those), reason))
    return list(groups.values()), refusals


def compare_pairs(
    groups: Sequence[Sequence[Entrant]], question: Question
) -> tuple[PairResult, ...]:
    """Every pair within each group, the better one first; p adjusted for all of them together."""
    found = []
    for first, second in (pair for group in groups for pair in combinations(group, 2)):
        pair = _pair(first, second, question)
        if pair.difference and (pair.difference > 0) == question.lower_is_better:
            pair = _pair(second, first, question)
        found.append(pair)
    adjusted = holm([None if pair.test is None else pair.test.p for pair in found])
    tests = sum(p is not None for p in adjusted)
    for place, p_holm in enumerate(adjusted):
        pair = replace(found[place], p_holm=p_holm)
        if p_holm is not None and pair.verdict != "tie":
            is_better = p_holm < 1 - question.level
            pair = replace(pair, verdict="better" if is_better else "undecided")
        if pair.test is not None and pair.test.sd > 0:
            error, degrees = pair.test.standard_error, pair.test.n_folds - 1
            level = first_step(question.level, tests)
            pair = replace(pair, detectable=detectable_difference(error, degrees, level=level))
        found[place] = replace(pair, sentence=sentences.about_pair(pair, tests))
    return tuple(found)


def _pair(first: Entrant, second: Entrant, question: Question) -> PairResult:
    mine, theirs = first.predictions, second.predictions
    assert mine is not None, "complete configs have predictions"
    assert theirs is not None, "complete configs have predictions"
    assert mine.paths == theirs.paths, "equal folds validate equal images"
    differences = [
        a - b
        for a, b in zip(first.row.fold_scores, second.row.fold_scores, strict=True)
        if a is not None and b is not None
    ]
    test = None
    if len(differences) > 1:
        folds = first.files.summary["fold_results"]
        ratio = sum(folds["fold_n_val"]) / sum(folds["fold_n_train"])
        test = corrected_resampled_t_test(differences, test_to_train=ratio, level=question.level)
    pooled, interval = None, None
    ours, others = (one.row.pooled[question.metric] for one in (first, second))
    if ours.value is not None and others.value is not None:
        pooled = ours.value - others.value
        if first.resampled is not None and second.resampled is not None:
            interval = difference_interval(
                ours, others, correlation(first.resampled, second.resampled)
            )
    # One prediction per image: the test assumes independent images.
    first_repeat = slice(None, None, first.row.n_repeats)
    correct = [
        (one.probabilities.argmax(axis=1) == one.targets)[first_repeat] for one in (mine, theirs)
    ]
    identical = np.array_equal(mine.probabilities, theirs.probabilities)
    return PairResult(
        first=first.row.name,
        second=second.row.name,
        metric=question.metric,
        difference=sum(differences) / len(differences) if differences else None,
        test=test,
        p_holm=None,
        detectable=None,
        mcnemar=mcnemar_test(*correct),
        pooled_difference=pooled,
        bootstrap=interval,
        verdict="tie" if identical else "untested",
        sentence="",
    )
