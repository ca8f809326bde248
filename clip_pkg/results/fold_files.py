"""What the folders of configs and folds hold, read once for whoever makes numbers of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from clip_pkg.base.errors import RunFolderError, shown
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.study.predictions import Predictions, pooled, read_predictions
from clip_pkg.study.tasks import FoldFailure, FoldResult, Identity, read_record

FoldStatus: TypeAlias = Literal["done", "diverged", "failed", "missing"]


@dataclass(frozen=True)
class FoldFiles:
    """What is known of one fold: a result with its predictions, or why there is none.

    predictions, predictions_last: of the best and of the last epoch.
    """

    number: int
    result: FoldResult | None
    failure: FoldFailure | None
    predictions: Predictions | None
    predictions_last: Predictions | None

    @property
    def status(self) -> FoldStatus:
        """`done`, `diverged`, `failed` or `missing`."""
        if self.result is not None:
            return "done"
        if self.failure is not None:
            return "diverged" if self.failure.kind == "diverged" else "failed"
        return "missing"


@dataclass(frozen=True)
class ConfigFiles:
    """A config's folder: what its folds share, and the folds."""

    paths: ConfigPaths
    config: Mapping[str, Any]
    folds_info: Mapping[str, Any]
    identity: Identity
    folds: tuple[FoldFiles, ...]

    @property
    def name(self) -> str:
        """The config's name."""
        return str(self.config["name"])

    def pooled(self, *, last: bool = False) -> Predictions | None:
        """Predictions of all finished folds at the best epoch, or at the last; None without any.

        Raises RunFolderError when they do not fit together.
        """
        found = [fold.predictions_last if last else fold.predictions for fold in self.folds]
        parts = [part for part in found if part is not None]
        return pooled(parts) if parts else None


def read_config_files(paths: ConfigPaths) -> ConfigFiles:
    """Read everything of one config.

    Raises RunFolderError when the folder is no result folder or its files contradict each other.
    """
    config, folds_info, identity = (
        read_json(path) for path in (paths.config, paths.folds_info, paths.identity)
    )
    try:
        mine = Identity(**identity)
        numbers = [int(info["fold"]) for info in folds_info["folds"]]
    except (KeyError, TypeError, ValueError):
        raise RunFolderError(
            f"{paths.root}: {paths.identity.name} or {paths.folds_info.name} is damaged; copy it "
            "again"
        ) from None
    folds = tuple(_fold_files(paths, number, mine) for number in numbers)
    return ConfigFiles(paths, config, folds_info, mine, folds)


def left_out(summary: Mapping[str, Any]) -> list[str]:
    """Name the folds that a summary's averages are without: `fold_2 (diverged: loss is NaN)`."""
    failures: Mapping[str, Mapping[str, str]] = summary["failures"]
    status: Mapping[str, str] = summary["status"]
    return [
        f"{fold} ({state}" + (f": {failures[fold]['reason']})" if fold in failures else ")")
        for fold, state in status.items()
        if state != "done"
    ]


def read_json(path: Path) -> Any:
    """Read a file that every result folder has. Raises RunFolderError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(
            f"{shown(path.parent)} is no result folder: it has no {path.name}"
        ) from None
    except ValueError as error:
        raise RunFolderError(f"{shown(path)} is damaged: {error}; copy it again") from None


def _fold_files(paths: ConfigPaths, number: int, identity: Identity) -> FoldFiles:
    files = paths.fold(number)
    result = read_record(FoldResult, files.result)
    if result is not None and result.identity != identity:
        parts = ", ".join(identity.differences(result.identity))
        raise RunFolderError(f"{files.result} belongs to another run: its {parts} differ")
    if result is None:
        return FoldFiles(number, None, read_record(FoldFailure, files.failure), None, None)
    best, last = read_predictions(files.predictions), read_predictions(files.predictions_last)
    return FoldFiles(number, result, None, best, last)
