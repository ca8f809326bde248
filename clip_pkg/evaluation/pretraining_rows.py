"""Configs with a pre-training, a row per loss: what the comparison of contrastive losses shows.

Configs that differ in nothing but their seed are one row, mean ± sample SD over seeds. Configs
without a pre-training that stand beside them are the baseline.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clip_pkg.errors import RunFolderError
from clip_pkg.evaluation.comparison_records import PretrainingRow, Spread
from clip_pkg.evaluation.config_result import ConfigResult
from clip_pkg.metrics.ranking import top_k_accuracy
from clip_pkg.paths import ConfigPaths
from clip_pkg.planning.tasks import NO_PART_OF_THE_RESULT, digest
from clip_pkg.predictions import Predictions, read_predictions

TOP = 5
NO_PRETRAINING = "no pre-training"
SEED = "random_state"


@dataclass(frozen=True)
class _Score:
    """Top-1 and top-5 accuracy of one config, in percent."""

    first: float | None
    top: float | None


def pretraining_rows(results: Sequence[ConfigResult]) -> tuple[PretrainingRow, ...]:
    """Rows of one data set, the best top-1 first and the baseline last; none without pre-trainings.

    Test scores where every config has them, otherwise those on held-out images.
    """
    if not any(_block(one) for one in results):
        return ()
    is_test = all(one.summary.get("test") for one in results)
    groups: dict[str, list[ConfigResult]] = {}
    for one in results:
        groups.setdefault(_without_seed(one), []).append(one)
    labels = [_label(group[0]) for group in groups.values()]
    rows = [
        _row(label if labels.count(label) == 1 else f"{label} ({group[0].name})", group, is_test)
        for label, group in zip(labels, groups.values(), strict=True)
    ]
    rows.sort(key=lambda row: (row.epochs == 0, -(row.top_1.mean or 0.0)))
    return tuple(rows)


def _block(one: ConfigResult) -> Mapping[str, Any] | None:
    block: Mapping[str, Any] | None = one.summary.get("pretraining")
    return block


def _without_seed(one: ConfigResult) -> str:
    """Equal for configs that differ in nothing but their name and seed."""
    ignored = {*NO_PART_OF_THE_RESULT, SEED}
    return digest({key: v for key, v in one.summary["config"].items() if key not in ignored})


def _label(one: ConfigResult) -> str:
    block = _block(one)
    return NO_PRETRAINING if block is None else str(block["loss"])


def _row(label: str, group: Sequence[ConfigResult], is_test: bool) -> PretrainingRow:
    blocks = [block for one in group if (block := _block(one)) is not None]
    scores = [(_tested if is_test else _held_out)(one) for one in group]

    def spread(value: Callable[[Mapping[str, Any]], float | None]) -> Spread:
        return _spread(map(value, blocks))

    return PretrainingRow(
        label=label,
        configs=tuple(one.name for one in group),
        seeds=tuple(one.summary["config"].get(SEED) for one in group),
        scores_of="test images" if is_test else "held-out images",
        top_1=_spread(score.first for score in scores),
        top_5=_spread(score.top for score in scores),
        seconds=spread(lambda block: block["seconds"]),
        effective_rank=spread(lambda block: block["last"]["effective_rank"]),
        knn_acc=spread(lambda block: block["last"]["knn_acc"]),
        probe_acc=spread(lambda block: block["last"]["probe_acc"]),
        probe_gain=spread(_gain),
        epochs=max((block["epochs"] for block in blocks), default=0),
        notes=tuple(_notes(group, blocks)),
        runs=tuple(
            str(one.folder / name)
            for one in group
            for name in (_block(one) or {"runs": ()})["runs"]
            if name is not None
        ),
        folds=tuple(
            str(ConfigPaths(one.folder).fold(number).root)
            for one in group
            for number in one.statuses
        ),
    )


def _gain(block: Mapping[str, Any]) -> float | None:
    """By how much the probe is better than that of the untrained encoder."""
    trained, before = block["last"]["probe_acc"], block["untrained"]["probe_acc"]
    return None if trained is None or before is None else float(trained - before)


def _notes(group: Sequence[ConfigResult], blocks: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    collapsed = sum(block["collapsed"] for block in blocks)
    if collapsed:
        yield "collapsed" if collapsed == len(group) else f"{collapsed} of {len(group)} collapsed"
    if blocks:
        images = {
            "train_fold": "images of the training fold",
            "all": "all images, without labels",
            "folder": "other images",
        }
        yield images[blocks[0]["images"]]
        if blocks[0]["shared_by_folds"] and any(len(one.statuses) > 1 for one in group):
            yield "one run for all folds"
    unfinished = sum(bool(one.missing) for one in group)
    if unfinished:
        yield f"{unfinished} of {len(group)} unfinished"


def _held_out(one: ConfigResult) -> _Score:
    """Over all held-out predictions at once, of the epoch that is compared."""
    return _score([] if one.predictions is None else [one.predictions])


def _tested(one: ConfigResult) -> _Score:
    """Mean over folds of the scores on the test images; top-5 from the predictions themselves."""
    averages = one.summary["test"]["average_results"]
    parts = []
    for number in one.statuses:
        path = ConfigPaths(one.folder).fold(number).test_predictions
        try:
            parts.append(read_predictions(path))
        except (RunFolderError, OSError):
            continue  # of a fold that is not done, or no more there; its scores are in the summary
    return _Score(averages.get("avg_test_acc"), _score(parts).top)


def _score(parts: Sequence[Predictions]) -> _Score:
    """Mean over the parts; None without any, and for top-5 of five classes or fewer."""

    def mean(k: int) -> float | None:
        shares = [top_k_accuracy(part.probabilities, part.targets, k) for part in parts]
        known = [share for share in shares if share is not None]
        return 100 * statistics.fmean(known) if known else None

    return _Score(mean(1), mean(TOP))


def _spread(values: Iterable[float | None]) -> Spread:
    known = [value for value in values if value is not None]
    return Spread(
        statistics.fmean(known) if known else None,
        statistics.stdev(known) if len(known) > 1 else None,
        len(known),
    )
