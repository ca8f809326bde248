"""Configs with a pre-training, a row per loss: what the comparison of contrastive losses shows.

Configs that differ in nothing but their seed are one row, mean ± sample SD over seeds. Configs
without a pre-training that stand beside them are the baseline.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.paths import ConfigPaths, FoldPaths, RunPaths
from clip_pkg.metrics.ranking import top_k_accuracy
from clip_pkg.results.comparison_records import PretrainingRow, Spread
from clip_pkg.results.config_result import ConfigResult
from clip_pkg.results.fold_files import ConfigFiles, read_json
from clip_pkg.study.predictions import Predictions, read_predictions
from clip_pkg.study.tasks import NO_PART_OF_THE_RESULT, FoldResult, FoldTask, digest, read_record

MEASURES = (
    "alignment",
    "uniformity",
    "effective_rank",
    "feature_std",
    "knn_acc",
    "probe_acc",
)
PROBES = ("knn_acc", "probe_acc")  # what the untrained encoder is measured by
COLLAPSED_BELOW = 2.0  # effective rank; 1 is that of features that are all alike
ALL_IMAGES = (
    "the image encoder was pre-trained on all images: the pixels of validation images, never their "
    "labels, were used before they were validated on"
)


@dataclass(frozen=True)
class PretrainingRun:
    """One pre-training. result: None while it is not done. speed: median images per second."""

    paths: FoldPaths
    result: FoldResult | None
    speed: float | None

    @property
    def is_collapsed(self) -> bool:
        """Whether its features hardly differ from image to image."""
        if self.result is None:
            return False
        rank = self.result.last.get("effective_rank")
        return (rank is not None and rank < COLLAPSED_BELOW) or any(
            "collaps" in notice for notice in self.result.notices
        )


def pretraining_block(files: ConfigFiles) -> dict[str, Any] | None:
    """Describe the pre-trainings that a config's folds start from; None for a config without."""
    block = files.config.get("pretrain")
    if block is None:
        return None
    notices: list[str] = [ALL_IMAGES] if block["images"] == "all" else []
    names = [_name(files, fold.number) for fold in files.folds]
    folder = RunPaths(files.paths.root.parent).pretraining
    runs = {name: _run(folder / name, notices) for name in dict.fromkeys(names) if name}
    if None in names:
        without = [
            f"fold_{fold.number}"
            for fold, name in zip(files.folds, names, strict=True)
            if name is None
        ]
        notices.append(f"no task.json names the pre-training of {', '.join(without)}")
    results = [run.result for run in runs.values() if run.result is not None]
    notices += [note for result in results for note in result.notices]
    loss = block["loss"]
    is_per_fold = block["images"] == "train_fold"
    return {
        "loss": loss["type"],
        "settings": {key: value for key, value in loss.items() if key != "type"},
        "images": block["images"] if block["images"] in ("train_fold", "all") else "folder",
        "epochs": block["epochs"],
        "shared_by_folds": not is_per_fold,
        "runs": [
            None
            if name is None
            else Path(os.path.relpath(folder / name, files.paths.root)).as_posix()
            for name in (names if is_per_fold else list(dict.fromkeys(names)))
        ],
        "seconds": sum(one.seconds for one in results) if results else None,
        "train_images_per_second": _mean(run.speed for run in runs.values()),
        "last": _means(MEASURES, [one.last for one in results]),
        "untrained": _means(PROBES, [one.untrained for one in results]),
        "collapsed": any(run.is_collapsed for run in runs.values()),
        "notices": list(dict.fromkeys(notices)),
    }


def _name(files: ConfigFiles, fold: int) -> str | None:
    """Folder name of the pre-training that a fold starts from; None if its task does not say."""
    task = _record(FoldTask, files.paths.fold(fold).task)
    return None if task is None or task.starts_from is None else Path(task.starts_from).name


def _run(folder: Path, notices: list[str]) -> PretrainingRun:
    """Read a run; what is missing or damaged is added to `notices`."""
    paths = FoldPaths(folder)
    result = _record(FoldResult, paths.result)
    if result is None:
        notices.append(f"pre-training {folder.name} has no result that can be read")
    history = read_history(paths)
    speeds = [value for value in history.get("train_images_per_second", ()) if value is not None]
    return PretrainingRun(paths, result, statistics.median(speeds) if speeds else None)


def read_history(paths: FoldPaths) -> Mapping[str, Sequence[float | None]]:
    """Columns of a run's history; empty where there is none that can be read."""
    try:
        history = read_json(paths.history)
    except (RunFolderError, OSError):
        return {}
    return history if isinstance(history, dict) else {}


def _record(kind: Any, path: Path) -> Any:
    try:
        return read_record(kind, path)
    except RunFolderError:
        return None


def _means(
    names: Sequence[str], rows: Sequence[Mapping[str, float | None]]
) -> dict[str, float | None]:
    return {name: _mean(row.get(name) for row in rows) for name in names}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


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
