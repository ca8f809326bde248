"""Two configs on identical folds: what differs, and whether it is more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from clip_pkg.evaluation import sentences
from clip_pkg.evaluation.bootstrap import percentile_interval
from clip_pkg.evaluation.comparison_records import PairResult, Question, Refusal
from clip_pkg.evaluation.config_result import ConfigResult
from clip_pkg.evaluation.statistics import corrected_resampled_t_test, holm, mcnemar_test
from clip_pkg.planning.problems import shown
from clip_pkg.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Entrant:
    """A config under the name it has in its data set.

    pooled: the compared score over all out-of-fold predictions. resampled: [R] the same for each
    resample of images; None for a score that has no bootstrap.
    """

    name: str
    result: ConfigResult
    pooled: float | None
    resampled: NDArray[np.float64] | None

    @property
    def predictions(self) -> Predictions:
        """Out-of-fold predictions of a config whose folds are done."""
        assert self.result.predictions is not None
        return self.result.predictions


def comparable(entrants: Sequence[Entrant]) -> tuple[list[list[Entrant]], list[Refusal]]:
    """Sort configs of one data set into those that may be compared with each other.

    Returns lists of configs with identical folds and classes, in the given order, and why the
    others are left out.
    """
    refusals = [
        Refusal(
            (one.name,),
            f"{one.name}: {len(one.result.missing)} of {len(one.result.statuses)} folds are not "
            f"done: {', '.join(one.result.missing)}; the same training command goes on with them",
        )
        for one in entrants
        if one.result.missing
    ]
    groups: dict[tuple[str, tuple[str, ...]], list[Entrant]] = {}
    for one in entrants:
        if not one.result.missing:
            groups.setdefault((one.result.splits_hash, one.result.classes), []).append(one)
    for (mine, mine_classes), (others, their_classes) in combinations(groups, 2):
        here, there = groups[mine, mine_classes], groups[others, their_classes]
        names = tuple(one.name for one in (*here, *there))
        left, right = (", ".join(one.name for one in side) for side in (here, there))
        if mine == others:
            reason = f"{left} and {right} have different classes"
        else:
            reason = (
                f"{left} and {right} were validated on different folds (splits_hash {mine[:8]}… "
                f"and {others[:8]}…), so that their differences are not those of the configs; "
                f"train one of them again with --splits-file "
                f"{shown(here[0].result.folder / 'folds_info.json')}"
            )
        refusals.append(Refusal(names, reason))
    return list(groups.values()), refusals


def compare_pairs(
    groups: Sequence[Sequence[Entrant]], question: Question
) -> tuple[PairResult, ...]:
    """Every pair within each group, the better one first; p adjusted for all of them together."""
    found = []
    for first, second in (pair for group in groups for pair in combinations(group, 2)):
        pair = _pair(first, second, question)
        is_behind = (
            pair.difference is not None and (pair.difference > 0) == question.lower_is_better
        )
        if is_behind and pair.difference != 0:
            pair = _pair(second, first, question)
        found.append(pair)
    adjusted = holm([None if pair.test is None else pair.test.p for pair in found])
    tests = sum(p is not None for p in adjusted)
    return tuple(
        _judged(pair, p, tests, question.level) for pair, p in zip(found, adjusted, strict=True)
    )


def _pair(first: Entrant, second: Entrant, question: Question) -> PairResult:
    mine, theirs = first.predictions, second.predictions
    assert mine.paths == theirs.paths, "equal folds validate equal images"
    scores = (one.result.fold_scores(question.metric, question.epoch) for one in (first, second))
    differences = [a - b for a, b in zip(*scores, strict=True) if a is not None and b is not None]
    test = None
    if len(differences) > 1:
        ratio = first.result.test_to_train
        test = corrected_resampled_t_test(differences, test_to_train=ratio, level=question.level)
    pooled = None
    if first.pooled is not None and second.pooled is not None:
        pooled = first.pooled - second.pooled
    between = None
    if pooled is not None and first.resampled is not None and second.resampled is not None:
        between = percentile_interval(first.resampled - second.resampled, question.level)
    identical = np.array_equal(mine.probabilities, theirs.probabilities)
    return PairResult(
        first=first.name,
        second=second.name,
        metric=question.metric,
        difference=sum(differences) / len(differences) if differences else None,
        test=test,
        p_holm=None,
        mcnemar=mcnemar_test(_correct(mine), _correct(theirs)),
        pooled_difference=pooled,
        bootstrap=between,
        verdict="tie" if identical else "untested",
        sentence=sentences.tie(first.name, second.name) if identical else "",
    )


def _judged(pair: PairResult, p_holm: float | None, tests: int, level: float) -> PairResult:
    """Say what the pair's numbers mean, now that the p of all pairs are known."""
    pair = replace(pair, p_holm=p_holm)
    if pair.verdict == "tie":
        return pair
    if pair.test is None or p_holm is None:
        why = (
            "there is only one fold to look at, and how much depends on it cannot be told"
            if pair.test is None
            else "all folds differ by the same amount, which leaves nothing to test"
        )
        return replace(pair, sentence=sentences.untested(pair, why))
    pair = replace(pair, verdict="better" if p_holm < 1 - level else "undecided")
    return replace(pair, sentence=sentences.tested(pair, tests))


def _correct(predictions: Predictions) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = predictions.probabilities.argmax(axis=1) == predictions.targets
    return right
