"""Which config is better, and is the difference real: from the files that training wrote.

Configs of one data set are compared pair by pair on identical folds; what several data sets share
is compared by ranks. Nothing is trained, nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import RunFolderError, UserError, shown
from clip_pkg.metrics.classification import classification_metrics, history_scores
from clip_pkg.metrics.table import METRICS
from clip_pkg.results import sentences
from clip_pkg.results.bootstrap import LEVEL, RESAMPLES, percentile_interval, resampled_scores
from clip_pkg.results.comparison_records import (
    AcrossDataSets,
    Baseline,
    Comparison,
    DataSetComparison,
    Epoch,
    LeaderboardRow,
    PairResult,
    Pooled,
    Question,
    Refusal,
)
from clip_pkg.results.config_result import (
    ConfigResult,
    read_config_result,
    result_folders,
    spread_of,
)
from clip_pkg.results.pretraining_rows import pretraining_rows
from clip_pkg.results.ranks import compare_across
from clip_pkg.results.statistics import corrected_resampled_t_test, holm, mcnemar_test
from clip_pkg.study.predictions import Predictions


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


DEFAULT_METRIC = "balanced_acc"


def compare(
    folders: Sequence[Path],
    *,
    metric: str = DEFAULT_METRIC,
    epoch: Epoch = "best",
    level: float = LEVEL,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Compare all configs in `folders`: results of a config, or folders with several of them.

    Args:
        folders: where to look.
        metric: what configs are ranked and tested by; one of `METRICS`.
        epoch: the epoch that was chosen as best in each fold, or the last.
        level: of intervals; p below 1 − level counts as a difference.
        seed: of the bootstrap and of permutations.
        progress: called with configs done and in all.

    Raises:
        UserError: no such metric.
        RunFolderError: no results, or damaged ones; a config that is not summed up is a refusal.
    """
    if metric not in METRICS:
        raise UserError(f"--metric: {metric!r} is no score; there are {', '.join(METRICS)}")
    found = result_folders(folders)
    results, refusals = [], []
    for folder in found:
        try:
            results.append(read_config_result(folder, epoch))
        except RunFolderError as error:
            refusals.append(Refusal((folder.name,), str(error)))
    if not results:
        raise RunFolderError("\n".join(one.reason for one in refusals))
    by_set: dict[str, list[ConfigResult]] = {}
    for result in results:
        by_set.setdefault(result.fingerprint, []).append(result)
    names = _tails([group[0].folder.parent for group in by_set.values()])
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, len(results))

    question = Question(metric, epoch, level, seed)
    sets = tuple(
        _data_set(name, group, question, advance)
        for name, group in zip(names, by_set.values(), strict=True)
    )
    across = None
    if len(sets) > 1:
        sets = tuple(_with_name(one) for one in sets)
        ranked = compare_across(sets, question)
        if isinstance(ranked, Refusal):
            refusals.append(ranked)
        else:
            across = ranked
    return Comparison(
        metric=metric,
        metric_name=METRICS[metric].title,
        lower_is_better=question.lower_is_better,
        epoch=epoch,
        level=level,
        seed=seed,
        data_sets=sets,
        across=across,
        refusals=tuple(refusals),
        findings=_findings(sets, across, question),
    )


def _with_name(one: DataSetComparison) -> DataSetComparison:
    """Put the data set's name into its sentences, where there are several."""
    pairs = (replace(pair, sentence=f"{one.name}: {pair.sentence}") for pair in one.pairs)
    return replace(one, pairs=tuple(pairs))


def _findings(
    sets: Sequence[DataSetComparison], across: AcrossDataSets | None, question: Question
) -> tuple[str, ...]:
    """Sentences for people: who leads, then every pair, then what several data sets say."""
    found = []
    for one in sets:
        if one.pairs:
            found.append(sentences.standing(one, question))
        found += [pair.sentence for pair in one.pairs]
        idle = (sentences.no_better_than_majority(one, row, question) for row in one.rows)
        found += [sentence for sentence in idle if sentence]
    if across is not None:
        found.append(across.sentence)
    return tuple(found)


def _data_set(
    name: str,
    results: Sequence[ConfigResult],
    question: Question,
    advance: Callable[[], None],
) -> DataSetComparison:
    names = _unique_names(results)
    built = []
    for label, result in zip(names, results, strict=True):
        built.append(_entrant(label, result, question))
        advance()
    built.sort(key=lambda one: _place(one[0].result, question))
    entrants = [entrant for entrant, _ in built]
    groups, refusals = comparable(entrants)
    first = entrants[0].result
    majority = {
        score: spread_of(first.summary["baselines"]["majority_class"], score)
        for score in ("acc", "balanced_acc")
    }
    untrained = (
        Baseline(
            f"untrained {one.name}",
            {
                score: spread_of(one.result.summary["baselines"]["untrained_model"], score)
                for score in METRICS
            },
        )
        for one in entrants
    )
    sizes = [0 if one.resampled is None else len(one.resampled) for one in entrants]
    return DataSetComparison(
        name=name,
        fingerprint=first.fingerprint,
        classes=first.classes,
        n_images=max(row.n_pooled for _, row in built),
        grouped=bool(first.together),
        resamples=max(sizes),
        rows=tuple(row for _, row in built),
        baselines=(Baseline("majority class", majority), *untrained),
        pairs=compare_pairs(groups, question),
        refusals=tuple(refusals),
        pretraining=pretraining_rows(results),
    )


def _entrant(name: str, result: ConfigResult, question: Question) -> tuple[Entrant, LeaderboardRow]:
    """Score one config's pooled predictions, with intervals."""
    said = result.predictions
    pooled: dict[str, Pooled] = {}
    resampled = {}
    if said is not None:
        resampled = resampled_scores(
            said.probabilities,
            said.targets,
            clusters=result.units(),
            resamples=RESAMPLES,
            seed=question.seed,
        )
        values = history_scores(classification_metrics(said.probabilities, said.targets))
        for score, value in values.items():
            drawn = resampled.get(score)
            interval = None if drawn is None else percentile_interval(drawn, question.level)
            pooled[score] = Pooled(value, interval)
    row = LeaderboardRow(
        name=name,
        config=result.name,
        folder=str(result.folder),
        splits_hash=result.splits_hash,
        folds_done=len(result.statuses) - len(result.missing),
        n_folds=len(result.statuses),
        best={score: result.spread(score, "best") for score in METRICS},
        last={score: result.spread(score, "last") for score in METRICS},
        pooled=pooled,
        n_pooled=0 if said is None else len(said.paths),
        epoch_choice=str(result.summary["epoch_choice"]),
        fold_scores=result.fold_scores(question.metric, question.epoch),
    )
    value = pooled[question.metric].value if pooled else None
    return Entrant(name, result, value, resampled.get(question.metric)), row


def _place(result: ConfigResult, question: Question) -> tuple[bool, bool, float, str]:
    """Sort key: complete ones first, then the best score."""
    mean = result.spread(question.metric, question.epoch).mean
    up = 1 if question.lower_is_better else -1
    return bool(result.missing), mean is None, 0.0 if mean is None else up * mean, result.name


def _unique_names(results: Sequence[ConfigResult]) -> list[str]:
    """Each config's name; with folders in front where two are called the same."""
    times = Counter(result.name for result in results)
    tails = _tails([result.folder for result in results])
    return [
        result.name if times[result.name] == 1 else tail
        for result, tail in zip(results, tails, strict=True)
    ]


def _tails(folders: Sequence[Path]) -> list[str]:
    """Shortest ends of the paths that tell them apart: `a/run`, `b/run`; equal paths stay equal."""
    names = []
    for folder in folders:
        length = 1
        while length < len(folder.parts) and any(
            other.parts[-length:] == folder.parts[-length:] for other in folders if other != folder
        ):
            length += 1
        names.append("/".join(folder.parts[-length:]))
    return names
