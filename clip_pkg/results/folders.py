"""A config's result folder, as training left it; each file is read when it is first needed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import RunFolderError, shown
from clip_pkg.base.paths import ConfigPaths, FoldPaths
from clip_pkg.base.spreadsheet import unescape_cell
from clip_pkg.results.summary_schema import read_summary
from clip_pkg.study.identity import Identity, identity_from_json
from clip_pkg.study.predictions import Predictions, pooled, read_predictions
from clip_pkg.study.tasks import FoldFailure, FoldResult, read_record

Epoch: TypeAlias = Literal["best", "last"]
HeadlineRule: TypeAlias = Literal["inner split", "last epoch", "bias corrected"]
FoldStatus: TypeAlias = Literal["done", "diverged", "failed", "missing"]
History: TypeAlias = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, eq=False)
class ShownImages:
    """How often each of N training images was shown.

    labels: N class names. times_seen: int64 [N].
    """

    labels: tuple[str, ...]
    times_seen: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FoldFiles:
    """One fold: its result, or the reason why it has none. number, repeat: from 1."""

    paths: FoldPaths
    number: int
    repeat: int
    result: FoldResult | None
    failure: FoldFailure | None

    @property
    def status(self) -> FoldStatus:
        if self.result is not None:
            return "done"
        if self.failure is not None:
            return "diverged" if self.failure.kind == "diverged" else "failed"
        return "missing"

    @cached_property
    def predictions(self) -> Predictions | None:
        """Held-out predictions of the best epoch; None unless the fold is done."""
        return None if self.result is None else read_predictions(self.paths.predictions)

    @cached_property
    def predictions_last(self) -> Predictions | None:
        """Held-out predictions of the last epoch; None unless the fold is done."""
        return None if self.result is None else read_predictions(self.paths.predictions_last)

    @cached_property
    def history(self) -> History:
        """Column → a value per epoch; empty for a fold that has not finished its first epoch."""
        if self.status != "done" and not self.paths.history.exists():
            return {}
        history: History = read_json(self.paths.history)
        return history

    @cached_property
    def exposure(self) -> ShownImages | None:
        """What the sampler showed; None if the file was deleted."""
        path = self.paths.exposure
        if not path.exists():
            return None
        try:
            with path.open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            seen = np.array([int(row["times_seen"]) for row in rows], dtype=np.int64)
            return ShownImages(tuple(unescape_cell(row["label"]) for row in rows), seen)
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{shown(path)} is damaged: {error!r}") from None


@dataclass(frozen=True, eq=False)
class ConfigFiles:
    """One config: what its folds share, and the folds."""

    paths: ConfigPaths
    config: Mapping[str, Any]
    folds_info: Mapping[str, Any]
    identity: Identity
    folds: tuple[FoldFiles, ...]

    @classmethod
    def read(cls, paths: ConfigPaths) -> Self:
        """Open a config's result folder.

        Raises RunFolderError if it is not a result folder or its files contradict each other.
        """
        config, folds_info, identity = (
            read_json(path) for path in (paths.config, paths.folds_info, paths.identity)
        )
        try:
            mine, splits = identity_from_json(identity), folds_info["splits_hash"]
            repeats = {
                int(info["fold"]): int(info.get("repeat", 1)) for info in folds_info["folds"]
            }
        except (KeyError, TypeError, ValueError):
            raise RunFolderError(
                f"{shown(paths.root)}: {paths.identity.name} or {paths.folds_info.name} is "
                "damaged; copy it again"
            ) from None
        if splits != mine.splits:
            raise RunFolderError(
                f"{shown(paths.folds_info)} describes other folds than {paths.identity.name}; copy "
                "both again"
            )
        folds = []
        for number, repeat in repeats.items():
            files, failure = paths.fold(number), None
            result = read_record(FoldResult, files.result)
            if result is None:
                failure = read_record(FoldFailure, files.failure)
            elif result.identity != mine:
                different = ", ".join(mine.differences(result.identity))
                raise RunFolderError(
                    f"{files.result} belongs to another run: its {different} differ"
                )
            folds.append(FoldFiles(files, number, repeat, result, failure))
        return cls(paths, config, folds_info, mine, tuple(folds))

    @property
    def name(self) -> str:
        return str(self.config["name"])

    @property
    def n_repeats(self) -> int:
        """How often the images were divided into folds."""
        return max(int(info.get("repeat", 1)) for info in self.folds_info["folds"])

    @property
    def done(self) -> tuple[FoldFiles, ...]:
        return tuple(fold for fold in self.folds if fold.status == "done")

    @property
    def unfinished(self) -> list[str]:
        """Folds without a result, with their status: `fold 2 (missing)`."""
        return [f"fold {f.number} ({f.status})" for f in self.folds if f.status != "done"]

    @property
    def headline_rule(self) -> HeadlineRule:
        """How a headline is made that no choice on the reported images has flattered."""
        if self.config["inner_val_fraction"] > 0:
            return "inner split"
        kept = all(fold.paths.epoch_predictions.exists() for fold in self.done)
        chosen = any(fold.result is not None and fold.result.last_epoch > 1 for fold in self.done)
        return "bias corrected" if kept and chosen else "last epoch"

    @property
    def headline_epoch(self) -> Epoch:
        return "last" if self.headline_rule == "last epoch" else "best"

    @property
    def clusters(self) -> list[Sequence[str]]:
        """Paths of images that belong together: groups (such as patients), and copies."""
        found = [*(self.folds_info.get("groups") or ()), *self.folds_info.get("linked", ())]
        return [paths for paths in found if len(paths) > 1]

    @cached_property
    def preflight(self) -> Mapping[str, Any]:
        """What the check of the images found; empty if the file is missing."""
        path = self.paths.preflight
        found: Mapping[str, Any] = read_json(path) if path.exists() else {}
        return found

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """`cv_summary.json`; what it should be if it is missing, damaged or out of date.

        Nothing is written: folds may end at this moment, and their launcher summarise them.
        """
        try:
            return self.stored_summary
        except RunFolderError:
            from clip_pkg.results.summary import build_summary  # noqa: PLC0415  it imports this

            return build_summary(self)

    @cached_property
    def stored_summary(self) -> Mapping[str, Any]:
        """`cv_summary.json`; raises RunFolderError if it is missing, damaged or out of date."""
        summary = read_summary(self.paths.summary)
        status = {f"fold_{fold.number}": fold.status for fold in self.folds}
        splits = self.folds_info["splits_hash"]
        if summary["status"] != status or summary["splits_hash"] != splits:
            what = "an earlier state" if summary["splits_hash"] == splits else "other folds"
            raise RunFolderError(
                f"{shown(self.paths.summary)} describes {what} of this run; "
                f"`python train_clip.py summarize {shown(self.paths.root)}` rewrites it"
            )
        return summary

    def pooled(self, epoch: Epoch = "best") -> Predictions | None:
        """Held-out predictions of all finished folds; None if no fold is finished.

        Of several repeats, one after another: an image then appears in each.

        Raises RunFolderError when they do not fit together.
        """
        name = "predictions" if epoch == "best" else "predictions_last"
        parts = [getattr(fold, name) for fold in self.done]
        return pooled(parts, [fold.repeat for fold in self.done]) if parts else None


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
            f"{names} holds no results: no folds_info.json in it or one level below. Give a "
            "config's result folder, or the folder that holds several"
        )
    return list(found)


def left_out(summary: Mapping[str, Any]) -> list[str]:
    """Folds that a summary's averages do not include: `fold_2 (diverged: loss is NaN)`."""
    failures: Mapping[str, Mapping[str, str]] = summary["failures"]
    return [
        f"{fold} ({status}" + (f": {failures[fold]['reason']})" if fold in failures else ")")
        for fold, status in summary["status"].items()
        if status != "done"
    ]


def read_json(path: Path) -> Any:
    """Read a file that every result folder has. Raises RunFolderError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(
            f"{shown(path.parent)} is not a result folder: it has no {path.name}"
        ) from None
    except ValueError as error:
        raise RunFolderError(f"{shown(path)} is damaged: {error}; copy it again") from None
