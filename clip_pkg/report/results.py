"""What training left of each config, read once for all parts of the report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from clip_pkg.base.errors import RunFolderError, shown
from clip_pkg.base.paths import ConfigPaths, FoldPaths, ReportPaths, RunPaths
from clip_pkg.config.schema import RunConfig
from clip_pkg.results.comparison import compare
from clip_pkg.results.comparison_records import Comparison, LeaderboardRow
from clip_pkg.results.config_result import result_folders
from clip_pkg.results.fold_files import FoldFiles, left_out, read_config_files, read_json
from clip_pkg.results.summary import summarize
from clip_pkg.results.summary_schema import read_summary
from clip_pkg.study.predictions import Predictions, pooled

History: TypeAlias = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, eq=False)
class Exposure:
    """How often each of N training images was shown.

    labels: N class names. times_seen: int64 [N].
    """

    labels: tuple[str, ...]
    times_seen: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FoldOutcome:
    """A finished fold. number, best_epoch count from 1; exposure is None where the file is gone."""

    number: int
    best_epoch: int
    history: History
    predictions: Predictions
    exposure: Exposure | None

    @property
    def exposure_digest(self) -> tuple[object, ...]:
        """Equal for folds whose images were shown equally often."""
        if self.exposure is None:
            return ()
        return (self.exposure.labels, self.exposure.times_seen.tobytes())


@dataclass(frozen=True, eq=False)
class ConfigOutcome:
    """A config. folds: those that are finished. preflight: what the check of the images found."""

    paths: ConfigPaths
    config: RunConfig
    summary: Mapping[str, Any]
    folds_info: Mapping[str, Any]
    preflight: Mapping[str, Any]
    folds: tuple[FoldOutcome, ...]

    @property
    def name(self) -> str:
        """The config's name, fit for a line."""
        return shown(self.config.name)

    @cached_property
    def pooled(self) -> Predictions:
        """Out-of-fold answers of all finished folds."""
        return pooled([fold.predictions for fold in self.folds])

    @property
    def classes(self) -> tuple[str, ...]:
        """C names in the order of the predictions, fit for a line."""
        return tuple(shown(name) for name in self.pooled.classes)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Out-of-fold counts [C, C]: true class, answer."""
        return np.array(self.summary["confusion_matrix"]["counts"], dtype=np.int64)

    @property
    def hardest_class(self) -> int:
        """Position of the class with the lowest recall."""
        support = self.confusion.sum(axis=1)
        recall = self.confusion.diagonal() / np.maximum(support, 1)
        return int(np.where(support > 0, recall, np.inf).argmin())

    @property
    def commonest_mistake(self) -> tuple[int, int] | None:
        """True class and answer of the most frequent wrong answer; None without mistakes."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        if not wrong.any():
            return None
        true, answer = np.unravel_index(int(wrong.argmax()), wrong.shape)
        return int(true), int(answer)

    @property
    def confidence_gap(self) -> float:
        """Accuracy minus mean confidence of the out-of-fold answers; over-confident below 0."""
        confidence = float(self.pooled.probabilities.max(axis=1).mean())
        return float(self.summary["out_of_fold"]["acc"]) / 100 - confidence

    @property
    def class_counts(self) -> Mapping[str, int]:
        """Images of each class in the whole set."""
        fold = self.folds_info["folds"][0]
        train, val = fold["train_per_class"], fold["val_per_class"]
        return {name: train[name] + val[name] for name in train}

    @property
    def n_images(self) -> int:
        """Images of the whole set."""
        return sum(self.class_counts.values())

    @property
    def n_groups(self) -> int | None:
        """Patients or other groups that were kept together; None without any."""
        groups = self.folds_info.get("groups")
        return None if groups is None else len(groups)

    def shown_alike(self, other: ConfigOutcome) -> bool:
        """Whether both were shown the same images equally often in every fold."""
        return [fold.exposure_digest for fold in self.folds] == [
            fold.exposure_digest for fold in other.folds
        ]

    @property
    def is_holdout(self) -> bool:
        """Whether there is one division only, which leaves images that are never validated."""
        return len(self.folds_info["folds"]) == 1


@dataclass(frozen=True)
class RunOutcome:
    """All configs of a folder with results. notices: what has none and why, a sentence each."""

    root: Path
    configs: tuple[ConfigOutcome, ...]
    notices: tuple[str, ...]


def read_run(directory: Path) -> RunOutcome:
    """Read every config. Raises RunFolderError for damaged files, and where no fold is finished."""
    if not directory.is_dir():
        raise RunFolderError(f"{shown(directory)}: there is no such folder")
    found, notices = [], []
    for folder in result_folders([directory]):
        outcome = read_config(ConfigPaths(folder))
        if outcome.folds:
            found.append(outcome)
        absent = ", ".join(left_out(outcome.summary))
        if absent and outcome.folds:
            notices.append(
                f"{outcome.name} is incomplete: its numbers are over {len(outcome.folds)} of "
                f"{outcome.summary['n_folds']} folds, without {absent}."
            )
        elif absent:
            notices.append(f"{outcome.name} has no part in this report: {absent}.")
    if not found:
        raise RunFolderError(
            f"{shown(directory)}: no fold is finished; the training command goes on where it "
            "stopped. " + " ".join(notices)
        )
    return RunOutcome(directory, tuple(found), tuple(notices))


def read_config(paths: ConfigPaths) -> ConfigOutcome:
    """Read one config's folder; a summary that is absent or of an older version is made anew."""
    files = read_config_files(paths)
    try:
        config = RunConfig.model_validate(files.config)
    except ValidationError as error:
        raise RunFolderError(
            f"{shown(paths.config)} was written by another version of this program: {error}"
        ) from None
    try:
        summary = read_summary(paths.summary)
    except RunFolderError:
        summary = summarize(paths)
    return ConfigOutcome(
        paths=paths,
        config=config,
        summary=summary,
        folds_info=files.folds_info,
        preflight=read_json(paths.preflight) if paths.preflight.exists() else {},
        folds=tuple(
            fold for one in files.folds if (fold := _fold(paths.fold(one.number), one)) is not None
        ),
    )


def _fold(paths: FoldPaths, files: FoldFiles) -> FoldOutcome | None:
    if files.result is None or files.predictions is None:
        return None
    assert files.result.best_epoch is not None, "a fold holds images out to choose it by"
    return FoldOutcome(
        number=files.number,
        best_epoch=files.result.best_epoch,
        history=read_json(paths.history),
        predictions=files.predictions,
        exposure=_exposure(paths.exposure),
    )


def _exposure(path: Path) -> Exposure | None:
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        seen = np.array([int(row["times_seen"]) for row in rows], dtype=np.int64)
        return Exposure(tuple(row["label"] for row in rows), seen)
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{shown(path)} is damaged: {error!r}") from None


@dataclass(frozen=True)
class Run:
    """A folder's configs, compared; ranked holds them in the order of the leaderboards."""

    outcome: RunOutcome
    comparison: Comparison
    by_folder: Mapping[str, ConfigOutcome]
    ranked: tuple[ConfigOutcome, ...]
    paths: ReportPaths

    def row_of(self, outcome: ConfigOutcome) -> LeaderboardRow:
        """Its row in a leaderboard."""
        rows = (row for one in self.comparison.data_sets for row in one.rows)
        return next(row for row in rows if row.folder == str(outcome.paths.root))


def read(directory: Path) -> Run:
    """Read and compare. Raises RunFolderError for folders without results or with a strange one."""
    root = directory.resolve()
    outcome = read_run(root)
    paths = RunPaths(root).report
    if ConfigPaths(paths.root).folds_info.exists():
        raise RunFolderError(
            f"{shown(paths.root)} holds the results of a config called `{paths.root.name}`, and "
            "the report would be written into it: move it to another folder"
        )
    comparison = compare([one.paths.root for one in outcome.configs])
    by_folder = {str(one.paths.root): one for one in outcome.configs}
    ranked = tuple(by_folder[row.folder] for one in comparison.data_sets for row in one.rows)
    return Run(outcome, comparison, by_folder, ranked, paths)
