"""Configs with a pre-training: what their runs report, and a table with one row per loss.

Configs that differ in their seed only are one row, mean ± sample SD over seeds. Configs without a
pre-training are the baseline.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_pkg.base.errors import DamagedFile
from clip_pkg.base.paths import FoldPaths, RunPaths
from clip_pkg.config.keys import defaults_added_later, keys_without_effect
from clip_pkg.metrics.ranking import top_k_accuracy
from clip_pkg.results.comparison_records import PretrainingRow, Spread
from clip_pkg.results.folders import ConfigFiles, Epoch
from clip_pkg.study.fold_files import History, read_history
from clip_pkg.study.identity import digest
from clip_pkg.study.predictions import Predictions, read_predictions
from clip_pkg.study.tasks import FoldResult, FoldTask, read_record, read_task

MEASURES = (
    "alignment",
    "uniformity",
    "effective_rank",
    "feature_std",
    "knn_acc",
    "probe_acc",
)
PROBES = ("knn_acc", "probe_acc")  # also measured before the first step
COLLAPSED_BELOW = 2.0  # effective rank; 1 if all features are equal
ALL_IMAGES = (
    "the image encoder was pre-trained on all images: the pixels of validation images, never their "
    "labels, were used before they were validated on"
)
TOP = 5
NO_PRETRAINING = "no pre-training"
SEED = "random_state"


def pretraining_block(files: ConfigFiles) -> dict[str, Any] | None:
    """The block `pretraining` of a summary; None for a config without a pre-training."""
    block = files.config.get("pretrain")
    if block is None:
        return None
    notices: list[str] = [ALL_IMAGES] if block["images"] == "all" else []
    names = {fold.number: _run_name(fold.paths) for fold in files.folds}
    folder = RunPaths(files.paths.root.parent).pretraining
    results, speeds = [], []
    for name in dict.fromkeys(filter(None, names.values())):
        try:
            result = read_record(FoldResult, FoldPaths(folder / name).result)
        except DamagedFile:
            result = None
        if result is None:
            notices.append(f"pre-training {name} has no result that can be read")
        else:
            results.append(result)
        history = history_if_readable(FoldPaths(folder / name))
        known = [one for one in history.get("train_images_per_second", ()) if one is not None]
        speeds.append(statistics.median(known) if known else None)
    if unnamed := [f"fold_{number}" for number, name in names.items() if name is None]:
        notices.append(f"no task.json names the pre-training of {', '.join(unnamed)}")
    notices += [note for result in results for note in result.notices]
    loss = block["loss"]
    is_per_fold = block["images"] == "train_fold"
    runs = [
        None if name is None else Path(os.path.relpath(folder / name, files.paths.root)).as_posix()
        for name in (names.values() if is_per_fold else dict.fromkeys(names.values()))
    ]
    return {
        "loss": loss["type"],
        "settings": {key: value for key, value in loss.items() if key != "type"},
        "images": block["images"] if block["images"] in ("train_fold", "all") else "folder",
        "epochs": block["epochs"],
        "shared_by_folds": not is_per_fold,
        "runs": runs,
        "seconds": sum(one.seconds for one in results) if results else None,
        "train_images_per_second": _spread(speeds).mean,
        "last": {key: _spread(one.last.get(key) for one in results).mean for key in MEASURES},
        "untrained": {
            key: _spread(one.untrained.get(key) for one in results).mean for key in PROBES
        },
        "collapsed": any(
            (one.last.get("effective_rank") or COLLAPSED_BELOW) < COLLAPSED_BELOW
            or any("collaps" in notice for notice in one.notices)
            for one in results
        ),
        "notices": list(dict.fromkeys(notices)),
    }


def _run_name(paths: FoldPaths) -> str | None:
    """Folder name of the pre-training that a fold starts from; None if its task has no name."""
    try:
        task = read_task(paths.task)
    except DamagedFile:
        return None
    starts_from = task.starts_from if isinstance(task, FoldTask) else None
    return None if starts_from is None else starts_from.name


def history_if_readable(paths: FoldPaths) -> History:
    """Columns of a run's history; empty if it is missing or damaged."""
    try:
        return read_history(paths.history)
    except DamagedFile:
        return {}


def pretraining_rows(configs: Sequence[ConfigFiles], epoch: Epoch) -> tuple[PretrainingRow, ...]:
    """Rows of one data set, the best top-1 accuracy first and the baseline last.

    Empty if no config has a pre-training. Scores are those on test images if every config has them,
    else those on held-out images.
    """
    if not any(one.summary.get("pretraining") for one in configs):
        return ()
    is_test = all(one.summary.get("test") for one in configs)
    ignored = {*keys_without_effect(), SEED}
    groups: dict[str, list[ConfigFiles]] = {}
    for one in configs:
        settings = defaults_added_later() | dict(one.config)
        settings = {key: value for key, value in settings.items() if key not in ignored}
        groups.setdefault(digest(settings), []).append(one)
    blocks = (group[0].summary.get("pretraining") for group in groups.values())
    labels = [NO_PRETRAINING if block is None else str(block["loss"]) for block in blocks]
    rows = []
    for label, group in zip(labels, groups.values(), strict=True):
        name = label if labels.count(label) == 1 else f"{label} ({group[0].name})"
        scores = [_tested(one) if is_test else _held_out(one, epoch) for one in group]
        rows.append(_row(name, group, scores, "test images" if is_test else "held-out images"))
    rows.sort(key=lambda row: (row.epochs == 0, -(row.top_1.mean or 0.0)))
    return tuple(rows)


def _row(
    label: str,
    group: Sequence[ConfigFiles],
    scores: Sequence[tuple[float | None, float | None]],
    scores_of: str,
) -> PretrainingRow:
    blocks = [block for one in group if (block := one.summary.get("pretraining"))]
    gains = []
    for block in blocks:
        trained, before = block["last"]["probe_acc"], block["untrained"]["probe_acc"]
        gains.append(None if trained is None or before is None else float(trained - before))
    return PretrainingRow(
        label=label,
        configs=tuple(one.name for one in group),
        seeds=tuple(one.config.get(SEED) for one in group),
        scores_of=scores_of,
        top_1=_spread(first for first, _ in scores),
        top_5=_spread(top for _, top in scores),
        seconds=_spread(block["seconds"] for block in blocks),
        **{
            name: _spread(block["last"][name] for block in blocks)
            for name in ("effective_rank", "knn_acc", "probe_acc")
        },
        probe_gain=_spread(gains),
        epochs=max((block["epochs"] for block in blocks), default=0),
        notes=tuple(_notes(group, blocks)),
        runs=tuple(
            str(one.paths.root / run)
            for one in group
            for run in (one.summary.get("pretraining") or {"runs": ()})["runs"]
            if run is not None
        ),
        folds=tuple(str(fold.paths.root) for one in group for fold in one.folds),
    )


def _notes(group: Sequence[ConfigFiles], blocks: Sequence[Mapping[str, Any]]) -> Iterable[str]:
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
        if blocks[0]["shared_by_folds"] and any(len(one.folds) > 1 for one in group):
            yield "one run for all folds"
    unfinished = sum(bool(one.unfinished) for one in group)
    if unfinished:
        yield f"{unfinished} of {len(group)} unfinished"


def _held_out(one: ConfigFiles, epoch: Epoch) -> tuple[float | None, float | None]:
    """Top-1 and top-5 accuracy over all held-out predictions at once."""
    pooled = one.pooled(epoch)
    found = [] if pooled is None else [pooled]
    return _top_k(found, 1), _top_k(found, TOP)


def _tested(one: ConfigFiles) -> tuple[float | None, float | None]:
    """Means over folds on the test images; top-5 accuracy is computed from the predictions."""
    found = []
    for fold in one.folds:
        try:
            found.append(read_predictions(fold.paths.test_predictions))
        except DamagedFile:
            continue  # fold not finished, or file deleted; top-1 is in the summary anyway
    return one.summary["test"]["average_results"].get("avg_test_acc"), _top_k(found, TOP)


def _top_k(predictions: Sequence[Predictions], k: int) -> float | None:
    """Mean accuracy in percent; None without predictions, and where k classes are all classes."""
    shares = (top_k_accuracy(one.probabilities, one.targets, k) for one in predictions)
    share = _spread(shares).mean
    return None if share is None else 100 * share


def _spread(values: Iterable[float | None]) -> Spread:
    known = [value for value in values if value is not None]
    return Spread(
        statistics.fmean(known) if known else None,
        statistics.stdev(known) if len(known) > 1 else None,
        len(known),
    )
