"""One config's folder as a comparison needs it: its summary, its folds and its predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import RunFolderError, shown
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.results.comparison_records import Epoch, Spread
from clip_pkg.results.fold_files import read_json
from clip_pkg.results.intervals import image_clusters
from clip_pkg.study.predictions import Predictions, pooled, read_predictions


@dataclass(frozen=True, eq=False)
class ConfigResult:
    """What training left of one config.

    name: the config's. classes: of the images. summary: `cv_summary.json`. predictions: out of
    fold over all finished folds, sorted by path; None while there is none. together: lists of paths
    that belong together: groups and copies. statuses: of each fold, by number.
    """

    folder: Path
    name: str
    summary: Mapping[str, Any]
    fingerprint: str
    splits_hash: str
    classes: tuple[str, ...]
    predictions: Predictions | None
    together: tuple[tuple[str, ...], ...]
    statuses: Mapping[int, str]

    @property
    def missing(self) -> tuple[str, ...]:
        """Folds that are not done, with what became of them."""
        return tuple(f"fold {n} ({s})" for n, s in self.statuses.items() if s != "done")

    def fold_scores(self, metric: str, epoch: Epoch) -> tuple[float | None, ...]:
        """A score of each fold at that epoch; None for a missing fold or where it is undefined."""
        part = self.summary if epoch == "best" else self.summary["last_epoch"]
        values = part["fold_results"].get(f"fold_val_{metric}")
        return tuple(values) if values else (None,) * len(self.statuses)

    def spread(self, metric: str, epoch: Epoch) -> Spread:
        """Mean ± SD of a score over the finished folds."""
        part = self.summary if epoch == "best" else self.summary["last_epoch"]
        return spread_of(part["average_results"], metric)

    @property
    def test_to_train(self) -> float:
        """Validation images ÷ training images, over the finished folds."""
        folds = self.summary["fold_results"]
        validated, trained = (
            sum(count for count in folds[f"fold_n_{side}"] if count is not None)
            for side in ("val", "train")
        )
        return float(validated / trained)

    def units(self) -> NDArray[np.int64] | None:
        """[N] equal numbers for predictions of images that belong together; None if none do."""
        if self.predictions is None:
            return None
        return image_clusters(self.predictions.paths, self.together)


def spread_of(
    averages: Mapping[str, Any], metric: str, side: Literal["val", "test"] = "val"
) -> Spread:
    """Read mean, deviation and number of folds of a score out of a summary's averages."""
    name = f"{side}_{metric}"
    return Spread(
        mean=averages.get(f"avg_{name}"),
        sd=averages.get(f"std_{name}"),
        n=int(averages.get(f"n_{name}", averages["n"])),
    )


def result_folders(directories: Sequence[Path]) -> list[Path]:
    """Find the configs' folders: those given, and those one level below the others; each once.

    Raises RunFolderError naming every directory that holds no result.
    """
    found: dict[Path, Path] = {}
    empty = []
    for directory in directories:
        below: Iterable[Path] = [directory]
        if not ConfigPaths(directory).folds_info.exists():
            below = sorted(directory.glob("*"))
        folders = [folder for folder in below if ConfigPaths(folder).folds_info.exists()]
        if not folders:
            empty.append(directory)
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
    if empty:
        names = ", ".join(shown(directory) for directory in empty)
        raise RunFolderError(
            f"{names} holds no results: no folds_info.json in it or one level below; give a "
            "config's result folder, or the folder that holds several"
        )
    return list(found)


def read_config_result(folder: Path, epoch: Epoch) -> ConfigResult:
    """Read one config's folder, with the predictions of the best or the last epoch.

    Raises RunFolderError when a file is missing, damaged or contradicts another.
    """
    paths = ConfigPaths(folder)
    if not paths.summary.exists():
        raise RunFolderError(
            f"{shown(folder)} has no cv_summary.json: it is still training, or was interrupted; "
            f"python train_clip.py summarize {shown(folder)} sums up what is there"
        )
    summary, folds_info = read_json(paths.summary), read_json(paths.folds_info)
    try:
        statuses = {
            int(key.removeprefix("fold_")): status for key, status in summary["status"].items()
        }
        done = [paths.fold(number) for number, status in statuses.items() if status == "done"]
        files = [fold.predictions if epoch == "best" else fold.predictions_last for fold in done]
        together = [*folds_info["linked"], *(folds_info.get("groups") or ())]
        result = ConfigResult(
            folder=folder,
            name=str(summary["config"]["name"]),
            summary=summary,
            fingerprint=folds_info["data_fingerprint"],
            splits_hash=folds_info["splits_hash"],
            classes=tuple(folds_info["classes"]),
            predictions=_pooled([read_predictions(file) for file in files]),
            together=tuple(tuple(one) for one in together if len(one) > 1),
            statuses=statuses,
        )
        outdated = summary["splits_hash"] != result.splits_hash
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunFolderError(
            f"{shown(folder)} was written by another version of this program ({error!r}); "
            f"python train_clip.py summarize {shown(folder)} sums it up anew"
        ) from None
    if outdated:
        raise RunFolderError(
            f"{shown(paths.summary)} was made with other folds than folds_info.json; "
            f"python train_clip.py summarize {shown(folder)} sums it up anew"
        )
    return result


def _pooled(parts: Sequence[Predictions]) -> Predictions | None:
    """Join the folds' predictions and sort them by path, so that configs line up."""
    if not parts:
        return None
    together = pooled(parts)
    order = sorted(range(len(together.paths)), key=together.paths.__getitem__)
    return Predictions(
        classes=together.classes,
        paths=tuple(together.paths[index] for index in order),
        targets=together.targets[order],
        probabilities=together.probabilities[order],
    )
