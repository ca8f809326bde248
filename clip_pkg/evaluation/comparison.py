"""Which config is better, and is the difference real: from the files that training wrote.

Configs of one data set are compared pair by pair on identical folds; what several data sets share
is compared by ranks. Nothing is trained, nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from clip_pkg.errors import RunFolderError, UserError
from clip_pkg.evaluation import sentences
from clip_pkg.evaluation.across import compare_across
from clip_pkg.evaluation.bootstrap import LEVEL, RESAMPLES, percentile_interval, resampled_scores
from clip_pkg.evaluation.comparison_records import (
    AcrossDataSets,
    Baseline,
    Comparison,
    DataSetComparison,
    Epoch,
    LeaderboardRow,
    Pooled,
    Question,
    Refusal,
)
from clip_pkg.evaluation.config_result import (
    ConfigResult,
    read_config_result,
    result_folders,
    spread_of,
)
from clip_pkg.evaluation.pairs import Entrant, comparable, compare_pairs
from clip_pkg.evaluation.pretraining_rows import pretraining_rows
from clip_pkg.metrics.classification import SCORES, classification_metrics
from clip_pkg.metrics.units import history_scores

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
        metric: what configs are ranked and tested by; one of `SCORES`.
        epoch: the epoch that was chosen as best in each fold, or the last.
        level: of intervals; p below 1 − level counts as a difference.
        seed: of the bootstrap and of permutations.
        progress: called with configs done and in all.

    Raises:
        UserError: no such metric.
        RunFolderError: no results, or damaged ones; a config that is not summed up is a refusal.
    """
    if metric not in SCORES:
        raise UserError(f"--metric: {metric!r} is no score; there are {', '.join(SCORES)}")
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
        metric_name=sentences.METRIC_NAMES[metric],
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
                for score in SCORES
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
        best={score: result.spread(score, "best") for score in SCORES},
        last={score: result.spread(score, "last") for score in SCORES},
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
