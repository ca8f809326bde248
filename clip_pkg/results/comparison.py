"""Which config is better, and is the difference significant: from the files that training wrote.

Configs of one data set are compared pair by pair on identical folds; what several data sets share
is compared by ranks. Nothing is trained, nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from clip_pkg.base.errors import RunFolderError, UserError
from clip_pkg.metrics.table import METRICS
from clip_pkg.results import sentences
from clip_pkg.results.bootstrap import LEVEL
from clip_pkg.results.comparison_records import (
    AcrossDataSets,
    Baseline,
    Comparison,
    DataSetComparison,
    Headline,
    LeaderboardRow,
    Pooled,
    Question,
    Refusal,
    Winner,
    spread_of,
)
from clip_pkg.results.folders import ConfigFiles, Epoch, read_configs
from clip_pkg.results.headline import best_of, headline_block, intervals_of
from clip_pkg.results.pairs import Entrant, comparable, compare_pairs
from clip_pkg.results.pretraining_rows import pretraining_rows
from clip_pkg.results.ranks import compare_across

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
        epoch: the best epoch of each fold, or the last.
        level: of intervals; p below 1 − level is significant.
        seed: of bootstrap and permutations.
        progress: called with the number of steps done, and of all: two per config.

    Raises:
        UserError: unknown metric.
        RunFolderError: no results, or damaged ones; a config without a summary is a refusal.
    """
    found, refused = read_configs(folders, ConfigFiles)
    refusals = [Refusal((folder.name,), reason, is_damaged=True) for folder, reason in refused]
    if not found:
        raise RunFolderError("\n".join(one.reason for one in refusals))
    question = Question(metric, epoch, level, seed)
    return compare_configs(found, question, refusals=refusals, progress=progress)


def compare_configs(
    configs: Sequence[ConfigFiles],
    question: Question,
    *,
    refusals: Sequence[Refusal] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Compare configs that were read already; see `compare`."""
    if question.metric not in METRICS:
        known = ", ".join(METRICS)
        raise UserError(f"--metric: unknown score {question.metric!r}; use one of {known}")
    refusals = list(refusals)
    by_set: dict[str, list[ConfigFiles]] = {}
    for files in configs:
        by_set.setdefault(files.folds_info["data_fingerprint"], []).append(files)
    names = _tails([group[0].paths.root.parent for group in by_set.values()])
    done = count(1)
    sets = [
        _data_set(name, group, question, lambda: progress(next(done), 2 * len(configs)))
        for name, group in zip(names, by_set.values(), strict=True)
    ]
    progress(2 * len(configs), 2 * len(configs))
    across: AcrossDataSets | None = None
    if len(sets) > 1:
        for place, one in enumerate(sets):
            named = (replace(pair, sentence=f"{one.name}: {pair.sentence}") for pair in one.pairs)
            sets[place] = replace(one, pairs=tuple(named))
        ranked = compare_across(sets, question)
        if isinstance(ranked, Refusal):
            refusals.append(ranked)
        else:
            across = ranked
    unequal = (sentences.unequal_budgets(one) for one in sets)
    findings = [sentence for sentence in unequal if sentence]
    for one in sets:
        if one.pairs:
            findings.append(sentences.standing(one, question))
        findings += [pair.sentence for pair in one.pairs]
        idle = (sentences.no_better_than_majority(one, row, question) for row in one.rows)
        findings += [sentence for sentence in idle if sentence]
    if across is not None:
        findings.append(across.sentence)
    return Comparison(
        **vars(question),
        data_sets=tuple(sets),
        across=across,
        refusals=tuple(refusals),
        findings=tuple(findings),
    )


def _data_set(
    name: str, configs: Sequence[ConfigFiles], question: Question, advance: Callable[[], None]
) -> DataSetComparison:
    times = Counter(one.name for one in configs)
    tails = _tails([one.paths.root for one in configs])
    entrants = []
    for tail, files in zip(tails, configs, strict=True):
        entrants.append(_entrant(files.name if times[files.name] == 1 else tail, files, question))
        advance()

    def place(one: Entrant) -> tuple[bool, bool, float, str]:
        """Complete configs first, then the best headline."""
        found = one.row.score(question)
        score = 0.0 if found is None else found if question.lower_is_better else -found
        return one.row.folds_done < one.row.n_folds, found is None, score, one.row.config

    entrants.sort(key=place)
    groups, refusals = comparable(entrants)
    winner: Winner | None = None
    if question.epoch == "best" and groups and len(groups[0]) > 1:
        rivals = [one.files for one in groups[0]]
        winner = best_of(rivals, 0, groups[0][0].row.name, question, advance)
    first = entrants[0].files
    majority = first.summary["baselines"]["majority_class"]
    baselines = [
        Baseline("majority class", {s: spread_of(majority, s) for s in ("acc", "balanced_acc")})
    ]
    for one in entrants:
        untrained = one.files.summary["baselines"]["untrained_model"]
        scores = {score: spread_of(untrained, score) for score in METRICS}
        baselines.append(Baseline(f"untrained {one.row.name}", scores))
    return DataSetComparison(
        name=name,
        fingerprint=first.folds_info["data_fingerprint"],
        classes=tuple(first.folds_info["classes"]),
        n_images=max(one.row.n_pooled for one in entrants),
        grouped=bool(first.clusters),
        rows=tuple(one.row for one in entrants),
        baselines=tuple(baselines),
        pairs=compare_pairs(groups, question),
        refusals=tuple(refusals),
        pretraining=pretraining_rows(configs, question.epoch),
        winner=winner,
    )


def _entrant(name: str, files: ConfigFiles, question: Question) -> Entrant:
    """Score one config's pooled predictions, with intervals."""
    pooled = files.pooled(question.epoch)
    found = None
    if pooled is not None:
        found = intervals_of(files, pooled, level=question.level, seed=question.seed)
    if found is not None:
        scores = {name: Pooled(found.values[name], found.scores[name]) for name in METRICS}
    else:  # no fold is done, or there are too many images
        values = files.summary[f"{question.epoch}_epoch"]["out_of_fold"] or {}
        scores = {name: Pooled(values[name], None) for name in METRICS if values}
    # Summaries of earlier versions have no headline.
    headline = files.summary.get("headline") or headline_block(files) if files.done else None
    best, last = files.summary, files.summary["last_epoch"]
    compared = (best if question.epoch == "best" else last)["fold_results"]
    fold_scores = compared.get(f"fold_val_{question.metric}") or [None] * len(files.folds)
    row = LeaderboardRow(
        name=name,
        config=files.name,
        folder=str(files.paths.root),
        splits_hash=files.folds_info["splits_hash"],
        folds_done=len(files.done),
        n_folds=len(files.folds),
        n_repeats=files.n_repeats,
        best={score: spread_of(best["average_results"], score) for score in METRICS},
        last={score: spread_of(last["average_results"], score) for score in METRICS},
        pooled=scores,
        n_pooled=0 if pooled is None else len(set(pooled.paths)),
        epoch_choice=str(files.summary["epoch_choice"]),
        budget=sentences.budget(files.config),
        fold_scores=tuple(fold_scores),
        headline=None if headline is None else Headline.from_json(headline),
    )
    draws = None if found is None else found.resampled.scores.get(question.metric)
    return Entrant(files, row, None if pooled is None else pooled.sorted(), draws)


def _tails(folders: Sequence[Path]) -> list[str]:
    """Shortest distinct ends of the paths: `a/run`, `b/run`; equal paths stay equal."""
    names = []
    for folder in folders:
        length = 1
        while length < len(folder.parts) and any(
            other.parts[-length:] == folder.parts[-length:] for other in folders if other != folder
        ):
            length += 1
        names.append("/".join(folder.parts[-length:]))
    return names
