"""The configs of a folder with results, compared, as the report needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from clip_pkg.base.errors import RunFolderError, shown
from clip_pkg.base.paths import ConfigPaths, ReportPaths, RunPaths
from clip_pkg.config.schema import RunConfig
from clip_pkg.results.bootstrap import LEVEL
from clip_pkg.results.comparison import DEFAULT_METRIC, compare_configs
from clip_pkg.results.comparison_records import Comparison, Headline, LeaderboardRow, Question
from clip_pkg.results.folders import (
    ConfigFiles,
    left_out,
    read_configs,
)
from clip_pkg.results.headline import intervals_of
from clip_pkg.results.intervals import ScoreIntervals
from clip_pkg.results.summary import summarize
from clip_pkg.results.summary_schema import SCHEMA_VERSION
from clip_pkg.study.fold_files import History
from clip_pkg.study.predictions import Predictions


@dataclass(frozen=True, eq=False)
class ConfigOutcome(ConfigFiles):
    """A config with at least one finished fold, and what follows from its files."""

    @cached_property
    def settings(self) -> RunConfig:
        """The validated config. Raises RunFolderError if another version wrote it."""
        try:
            return RunConfig.model_validate(self.config)
        except ValidationError as error:
            raise RunFolderError(
                f"{shown(self.paths.config)} was written by another version of this program: "
                f"{error}"
            ) from None

    @property
    def label(self) -> str:
        """Printable name."""
        return shown(self.name)

    @property
    def histories(self) -> list[History]:
        """Histories of the finished folds."""
        return [fold.history for fold in self.done]

    @property
    def best_epochs(self) -> list[int]:
        """Best epoch of each finished fold, from 1."""
        epochs = self.summary["fold_results"]["fold_best_epoch"]
        return [epoch for epoch in epochs if epoch is not None]

    @cached_property
    def predictions(self) -> list[Predictions]:
        """Held-out predictions of each finished fold, at its best epoch."""
        return [fold.predictions for fold in self.done if fold.predictions is not None]

    @cached_property
    def out_of_fold(self) -> Predictions:
        """Predictions of all finished folds, pooled; an image has one per repeat."""
        found = self.pooled()
        assert found is not None, "a fold is finished"
        return found

    @property
    def counted(self) -> str:
        """What confusion counts and support count: `images`, or `predictions` of repeats."""
        return "images" if self.n_repeats == 1 else "predictions"

    @property
    def classes(self) -> tuple[str, ...]:
        """C printable names in the order of the predictions."""
        return tuple(shown(name) for name in self.out_of_fold.classes)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Out-of-fold counts [C, C]: true class, predicted class."""
        return np.array(self.summary["confusion_matrix"]["counts"], dtype=np.int64)

    @cached_property
    def intervals(self) -> ScoreIntervals | None:
        """Of the out-of-fold predictions, as in the summary; None for too many images."""
        return intervals_of(self, self.out_of_fold)

    @cached_property
    def headline(self) -> Headline | None:
        """Scores that no choice on the reported images has flattered."""
        block = self.summary.get("headline")
        return None if block is None else Headline.from_json(block)

    @property
    def hardest_class(self) -> int:
        """Position of the class with the lowest recall."""
        support = self.confusion.sum(axis=1)
        recall = self.confusion.diagonal() / np.maximum(support, 1)
        return int(np.where(support > 0, recall, np.inf).argmin())

    @property
    def commonest_mistake(self) -> tuple[int, int] | None:
        """True and predicted class of the most frequent mistake; None without mistakes."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        if not wrong.any():
            return None
        true, predicted = np.unravel_index(int(wrong.argmax()), wrong.shape)
        return int(true), int(predicted)

    @property
    def confidence_gap(self) -> float:
        """Accuracy minus mean confidence of out-of-fold predictions; over-confident below 0."""
        confidence = float(self.out_of_fold.probabilities.max(axis=1).mean())
        return float(self.summary["out_of_fold"]["acc"]) / 100 - confidence

    @property
    def class_counts(self) -> Mapping[str, int]:
        """Images per class in the whole data set."""
        fold = self.folds_info["folds"][0]
        train, val = fold["train_per_class"], fold["val_per_class"]
        return {name: train[name] + val[name] for name in train}

    @property
    def n_images(self) -> int:
        return sum(self.class_counts.values())

    @property
    def n_groups(self) -> int | None:
        """Number of patients or other groups; None if images are not grouped."""
        groups = self.folds_info.get("groups")
        return None if groups is None else len(groups)

    @property
    def is_holdout(self) -> bool:
        """Whether there is a single split, so that some images are never validated."""
        return len(self.folds_info["folds"]) == 1

    def has_exposure_of(self, other: ConfigOutcome) -> bool:
        """Whether the samplers of both showed the same images equally often in every fold."""
        mine, theirs = (
            [
                fold.exposure and (fold.exposure.labels, fold.exposure.times_seen.tobytes())
                for fold in one.done
            ]
            for one in (self, other)
        )
        return mine == theirs


@dataclass(frozen=True)
class ReportedRun:
    """A folder's configs, compared.

    ranked: in the order of the leaderboards. notices: incomplete configs, a sentence each. damaged:
    those on configs with damaged files, which are left out.
    """

    root: Path
    comparison: Comparison
    ranked: tuple[ConfigOutcome, ...]
    notices: tuple[str, ...]
    paths: ReportPaths
    damaged: tuple[str, ...] = ()

    def outcome_of(self, row: LeaderboardRow) -> ConfigOutcome:
        return next(one for one in self.ranked if str(one.paths.root) == row.folder)

    def row_of(self, outcome: ConfigOutcome) -> LeaderboardRow:
        rows = (row for one in self.comparison.data_sets for row in one.rows)
        return next(row for row in rows if row.folder == str(outcome.paths.root))


def read_run(directory: Path) -> ReportedRun:
    """Read and compare all configs in a folder.

    Summaries that are missing or out of date are written first.

    Raises RunFolderError if no fold is finished, and if a config's folder is in the place of the
    report.
    """
    root = directory.resolve()
    if not root.is_dir():
        raise RunFolderError(f"{shown(root)}: no such folder")
    found: list[ConfigOutcome] = []
    whole, refused = read_configs([root], ConfigOutcome)
    damaged = tuple(
        f"{shown(folder.name)} is not part of this report: {reason}." for folder, reason in refused
    )
    notices = list(damaged)
    for outcome in whole:
        try:
            is_current = outcome.stored_summary["schema_version"] == SCHEMA_VERSION
        except RunFolderError:
            is_current = False
        if not is_current:
            summarize(outcome.paths)
            outcome = ConfigOutcome.read(outcome.paths)  # noqa: PLW2901
        absent = ", ".join(left_out(outcome.summary))
        if outcome.done:
            found.append(outcome)
        if absent and outcome.done:
            notices.append(
                f"{outcome.label} is incomplete: its numbers are over {len(outcome.done)} of "
                f"{len(outcome.folds)} folds, without {absent}."
            )
        elif absent:
            notices.append(f"{outcome.label} is not part of this report: {absent}.")
    if not found:
        raise RunFolderError(
            f"{shown(root)}: no config can be reported. Run the training command again to resume. "
            + " ".join(notices)
        )
    paths = RunPaths(root).report
    if ConfigPaths(paths.root).folds_info.exists():
        raise RunFolderError(
            f"{shown(paths.root)} holds the results of a config called `{paths.root.name}`, and "
            "the report would be written into it: move it to another folder"
        )
    question = Question(DEFAULT_METRIC, "best", LEVEL, seed=0)
    comparison = compare_configs(found, question)
    by_folder = {str(one.paths.root): one for one in found}
    ranked = tuple(by_folder[row.folder] for one in comparison.data_sets for row in one.rows)
    return ReportedRun(root, comparison, ranked, tuple(notices), paths, damaged)
