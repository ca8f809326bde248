"""A config's result folder, as training left it; each file is read when it is first needed."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from typing_extensions import TypedDict

from clip_pkg.base.errors import DamagedFile, RunFolderError, first_line, shown
from clip_pkg.base.paths import ConfigPaths, FoldPaths
from clip_pkg.base.program import program
from clip_pkg.base.reading import Count, first_problem, read_bytes, read_json, read_required_json
from clip_pkg.base.spreadsheet import unescape_cell
from clip_pkg.config.load import dump_canonical
from clip_pkg.config.schema import RunConfig
from clip_pkg.results.summary_schema import read_summary
from clip_pkg.study.fold_files import AGAIN, History, read_history
from clip_pkg.study.folds_info import REWRITTEN, FoldsInfo, read_folds_info
from clip_pkg.study.identity import Identity, StoredIdentity
from clip_pkg.study.predictions import Predictions, pooled, read_predictions
from clip_pkg.study.tasks import DAMAGED, FoldFailure, FoldResult, read_record, whole_result

Epoch: TypeAlias = Literal["best", "last"]
HeadlineRule: TypeAlias = Literal["inner split", "last epoch", "bias corrected"]
FoldStatus: TypeAlias = Literal["done", "diverged", "failed", "missing"]
Spread: TypeAlias = tuple[Count, Count, Count]


class Findings(TypedDict, total=False):
    """What readers need of `preflight.json`. width, height: least, median and most pixels."""

    data_dir: str
    formats: dict[str, Count]
    width: Spread
    height: Spread
    unreadable: list[Any]
    group_suggestion: str | None


@dataclass(frozen=True, eq=False)
class ShownImages:
    """How often each of N training images was shown.

    labels: N class names. times_seen: int64 [N].
    """

    labels: tuple[str, ...]
    times_seen: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FoldFiles:
    """One fold: its result, or the reason why it has none. number, repeat: from 1.

    damage: the file because of which its result is not used.
    """

    paths: FoldPaths
    number: int
    repeat: int
    result: FoldResult | None
    failure: FoldFailure | None
    damage: DamagedFile | None = None

    def __repr__(self) -> str:
        return f"FoldFiles({str(self.paths.root)!r}, {self.status})"

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
        return read_history(self.paths.history)

    @cached_property
    def exposure(self) -> ShownImages | None:
        """What the sampler showed; None if the file was deleted."""
        path = self.paths.exposure
        if not path.exists():
            return None
        try:
            text = read_bytes(path, AGAIN).decode("utf-8")
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
            seen = np.array([int(row["times_seen"]) for row in rows], dtype=np.int64)
            return ShownImages(tuple(unescape_cell(row["label"]) for row in rows), seen)
        except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
            raise DamagedFile(path, f"is damaged ({first_line(error)})", AGAIN) from None


def folds_done(folds: Collection[FoldFiles]) -> str:
    """`4 of 5 folds done`."""
    done = sum(1 for fold in folds if fold.status == "done")
    return f"{done} of {len(folds)} folds done"


@dataclass(frozen=True, eq=False)
class ConfigFiles:
    """One config: what its folds share, and the folds."""

    paths: ConfigPaths
    config: Mapping[str, Any]
    folds_info: FoldsInfo
    identity: Identity
    folds: tuple[FoldFiles, ...]

    def __repr__(self) -> str:
        return f"ConfigFiles({str(self.paths.root)!r}, {folds_done(self.folds)})"

    @classmethod
    def read(cls, paths: ConfigPaths) -> Self:
        """Open a config's result folder. A damaged file of a fold is that fold's `damage`.

        Raises RunFolderError if it is not a result folder or its files contradict each other.
        """
        config, folds_info = read_config(paths.config), read_folds_info(paths.folds_info)
        mine = read_required_json(paths.identity, StoredIdentity, REWRITTEN)
        if folds_info["splits_hash"] != mine.splits:
            raise RunFolderError(
                f"{shown(paths.folds_info)} describes other folds than {paths.identity.name}; copy "
                "both again"
            )
        folds = []
        for info in folds_info["folds"]:
            files = paths.fold(info["fold"])
            result, failure, damage = None, None, None
            try:
                result = whole_result(files, with_models=False)
                if result is None:
                    failure = read_record(FoldFailure, files.failure)
                elif result.identity != mine:
                    different = ", ".join(mine.differences(result.identity))
                    reason = f"belongs to another run: its {different} differ"
                    raise DamagedFile(files.result, reason, AGAIN)
            except DamagedFile as error:
                result, damage = None, error
                failure = FoldFailure(mine, info["fold"], DAMAGED, str(error))
            folds.append(
                FoldFiles(files, info["fold"], info.get("repeat", 1), result, failure, damage)
            )
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
    def preflight(self) -> Findings:
        """What the check of the images found; empty if the file is missing."""
        try:
            return read_json(self.paths.preflight, Findings, REWRITTEN)
        except FileNotFoundError:
            return {}

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
                f"`{program()} summarize {shown(self.paths.root)}` rewrites it"
            )
        return summary

    def check(self) -> None:
        """Raise RunFolderError, often DamagedFile, if a file that its numbers need is damaged."""
        for fold in self.folds:
            if fold.damage is not None:
                raise fold.damage
            _ = fold.history, fold.exposure
        _ = self.preflight, self.pooled("best"), self.pooled("last"), self.summary

    def pooled(self, epoch: Epoch = "best") -> Predictions | None:
        """Held-out predictions of all finished folds; None if no fold is finished.

        Of several repeats, one after another: an image then appears in each.

        Raises RunFolderError when they do not fit together.
        """
        name = "predictions" if epoch == "best" else "predictions_last"
        parts = [getattr(fold, name) for fold in self.done]
        return pooled(parts, [fold.repeat for fold in self.done]) if parts else None


Config = TypeVar("Config", bound=ConfigFiles)


def result_folders(directories: Sequence[Path]) -> list[Path]:
    """Find the configs' folders: those given, and those one level below the others; each once.

    Raises RunFolderError naming every directory that holds no result.
    """
    found: dict[Path, Path] = {}
    empty = []
    for directory in directories:
        below: Iterable[Path] = [directory]
        if not _holds_results(directory):
            below = sorted(directory.glob("*"))
        folders = [folder for folder in below if _holds_results(folder)]
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


def _holds_results(folder: Path) -> bool:
    """Whether it is a config's folder, even if one of its files is lost."""
    has_folds = ConfigPaths(folder).folds_info.exists()
    return has_folds or any(folder.glob("fold_*/result.json"))


def left_out(summary: Mapping[str, Any]) -> list[str]:
    """Folds that a summary's averages do not include: `fold_2 (diverged: loss is NaN)`."""
    failures: Mapping[str, Mapping[str, str]] = summary["failures"]
    return [
        f"{fold} ({status}" + (f": {failures[fold]['reason']})" if fold in failures else ")")
        for fold, status in summary["status"].items()
        if status != "done"
    ]


def read_configs(
    directories: Sequence[Path], kind: type[Config]
) -> tuple[list[Config], list[tuple[Path, str]]]:
    """Read all configs below `directories` that are whole; the folders of the others, and why not.

    Raises RunFolderError naming every directory that holds no result.
    """
    found, refused = [], []
    for folder in result_folders(directories):
        try:
            files = kind.read(ConfigPaths(folder))
            files.check()
            found.append(files)
        except RunFolderError as error:
            refused.append((folder, str(error)))
    return found, refused


def read_config(path: Path) -> Mapping[str, Any]:
    """Read a `config.json`; keys of later versions have their defaults.

    Raises DamagedFile, and RunFolderError where nothing speaks for a config's folder.
    """
    try:
        config = read_json(path, dict[str, Any], REWRITTEN)
        return {**dump_canonical(RunConfig.model_validate(config)), **config}
    except FileNotFoundError:
        paths = ConfigPaths(path.parent)
        if not paths.identity.exists() and not paths.folds_info.exists():
            raise RunFolderError(
                f"{shown(path.parent)} is not a result folder: it has no {path.name}"
            ) from None
        raise DamagedFile(path, "is missing", REWRITTEN) from None
    except ValidationError as error:
        reason = f"is damaged or of another version ({first_problem(error)})"
        raise DamagedFile(path, reason, REWRITTEN) from None
