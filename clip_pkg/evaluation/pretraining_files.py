"""What a config's pre-trainings left, as the block `pretraining` of its summary.

The folder of a run is `pretraining/<name>` beside the config's own, so that results may be moved;
the folds' tasks say its name. What is missing is null, with a notice.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_pkg.errors import RunFolderError
from clip_pkg.evaluation.fold_files import ConfigFiles, read_json
from clip_pkg.paths import FoldPaths, RunPaths
from clip_pkg.planning.tasks import FoldResult, FoldTask, read_record

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
