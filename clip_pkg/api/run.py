"""Results of a run as data frames: `load_run(DIR)`. Reads files only; needs no torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clip_pkg.base.errors import RunFolderError, some
from clip_pkg.results.folders import (
    ConfigFiles,
    FoldFiles,
    folds_done,
    left_out,
    read_configs,
)
from clip_pkg.study.predictions import PROBABILITY_PREFIX, Predictions

BLOCKS = ("best_epoch", "last_epoch")


@dataclass(frozen=True, eq=False)
class Run:
    """Results of one or several configs, as tidy tables: a row per observation, no index.

    Every table begins with a column `config`, the config's name. Scores have the names and units
    of `cv_summary.json`: accuracies and mAP in percent, others fractions. What is undefined is NaN.

    root: the folder that was loaded. files: by config.
    """

    root: Path
    files: tuple[ConfigFiles, ...]

    def __repr__(self) -> str:
        folds = [fold for one in self.files for fold in one.folds]
        return f"Run({str(self.root)!r}, configs {some(self.names)}: {folds_done(folds)})"

    @property
    def names(self) -> list[str]:
        """Names of the configs."""
        return [one.name for one in self.files]

    @cached_property
    def cv_summaries(self) -> dict[str, Mapping[str, Any]]:
        """Config → its cv_summary.json; made from the folds' files where there is none that fits.

        Nothing is written.
        """
        return {one.name: one.summary for one in self.files}

    @property
    def unfinished(self) -> list[str]:
        """Folds without a result, with the reason: `a: fold_2 (diverged: …)`."""
        return [
            f"{name}: {fold}"
            for name, summary in self.cv_summaries.items()
            for fold in left_out(summary)
        ]

    @cached_property
    def configs(self) -> pd.DataFrame:
        """A row per config, a column per key; `loss.type` and the like for a block of keys."""
        rows = [{"config": one.name, **_flat(one.config)} for one in self.files]
        return pd.DataFrame(rows).drop(columns="name")

    @cached_property
    def folds(self) -> pd.DataFrame:
        """A row per config and fold: repeat, status, reason, epochs, images, seconds, `val_…`.

        Scores are those of the best epoch.
        """
        return pd.DataFrame(
            {"config": one.name, **_fold_row(fold)} for one in self.files for fold in one.folds
        )

    @cached_property
    def histories(self) -> pd.DataFrame:
        """A row per config, fold and epoch (from 1); folds that still train are included."""
        frames = [
            _named(pd.DataFrame(columns).astype(float), one.name, fold.number, epoch=True)
            for one in self.files
            for fold in one.folds
            if (columns := fold.history)
        ]
        return _joined(frames, ["config", "fold", "epoch"])

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A row per config, repeat and out-of-fold image, by the model of the fold's best epoch.

        Columns: fold, path, label, prediction, correct, confidence (the largest probability) and
        `prob_<class>`.
        """
        return self._predictions(lambda fold: fold.predictions)

    @cached_property
    def predictions_last(self) -> pd.DataFrame:
        """The same by the model of the last epoch."""
        return self._predictions(lambda fold: fold.predictions_last)

    @cached_property
    def summaries(self) -> pd.DataFrame:
        """A row per config, choice of the epoch and score.

        Columns: epoch (`headline`, `best_epoch`, `last_epoch`), score, mean, std and n over folds
        (not of the headline), out_of_fold over all images at once, with the bounds low and high of
        its confidence interval (headline, best epoch), and mean_untrained of the model before
        training.
        """
        rows = [
            {"config": name, **row}
            for name, summary in self.cv_summaries.items()
            for row in _summary_rows(summary)
        ]
        return pd.DataFrame(rows, columns=_SUMMARY_COLUMNS)

    @cached_property
    def per_class(self) -> pd.DataFrame:
        """A row per config and class: support, scores out of fold, `<score>_low` and `_high`."""
        rows = []
        for name, summary in self.cv_summaries.items():
            intervals = (summary["confidence_intervals"] or {}).get("per_class", {})
            for label, scores in (summary["per_class"] or {}).items():
                bounds = {
                    f"{score}_{side}": value
                    for score, found in intervals.get(label, {}).items()
                    for side, value in zip(("low", "high"), found or (None, None), strict=True)
                }
                rows.append({"config": name, "class": label, **scores, **bounds})
        return pd.DataFrame(rows)

    def confusion_matrix(self, config: str) -> pd.DataFrame:
        """Counts of a config out of fold; row: true class, column: predicted class."""
        found = self.cv_summaries[config]["confusion_matrix"]
        if found is None:
            raise RunFolderError(f"{config}: no fold is finished, so there is no confusion matrix")
        return pd.DataFrame(
            found["counts"],
            index=pd.Index(found["classes"], name=found["rows"]),
            columns=pd.Index(found["classes"], name=found["columns"]),
        )

    def _predictions(self, choose: Callable[[FoldFiles], Predictions | None]) -> pd.DataFrame:
        frames = [
            _named(_prediction_rows(found), one.name, fold.number)
            for one in self.files
            for fold in one.folds
            if (found := choose(fold)) is not None
        ]
        columns = ["config", "fold", "path", "label", "prediction", "correct", "confidence"]
        return _joined(frames, columns)


_SUMMARY_COLUMNS = ["config", "epoch", "score", "mean", "std", "n"]
_SUMMARY_COLUMNS += ["out_of_fold", "low", "high", "mean_untrained"]


def load_run(directory: str | Path) -> Run:
    """Load the results of a config's folder, or of all configs in an output folder.

    Folds without a result are left out of all scores, and configs with damaged files are left out,
    with a warning each.

    Raises RunFolderError when the folder holds no results, or none that can be read.
    """
    root = Path(directory)
    found, refused = read_configs([root], ConfigFiles)
    reasons = [f"{folder.name} is left out: {reason}" for folder, reason in refused]
    if not found:
        raise RunFolderError("\n  ".join([f"{root}: no results can be read:", *reasons]))
    for reason in reasons:
        warnings.warn(reason, stacklevel=2)
    run = Run(root, tuple(found))
    if run.unfinished:
        warnings.warn(
            f"{root}: folds without a result, left out: {'; '.join(run.unfinished)}", stacklevel=2
        )
    return run


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _fold_row(fold: FoldFiles) -> dict[str, Any]:
    row: dict[str, Any] = {"fold": fold.number, "repeat": fold.repeat, "status": fold.status}
    row["reason"] = "" if fold.failure is None else fold.failure.reason
    result = fold.result
    if result is not None:
        row |= {
            name: getattr(result, name)
            for name in ("best_epoch", "last_epoch", "stopped_early", "n_train", "n_val", "seconds")
        }
        row |= {name: np.nan if value is None else value for name, value in result.best.items()}
    return row


def _prediction_rows(found: Predictions) -> pd.DataFrame:
    names = np.array(found.classes, dtype=object)
    chosen = found.probabilities.argmax(axis=1)
    leading = pd.DataFrame(
        {
            "path": found.paths,
            "label": names[found.targets],
            "prediction": names[chosen],
            "correct": chosen == found.targets,
            "confidence": found.probabilities.max(axis=1),
        }
    )
    columns = [PROBABILITY_PREFIX + name for name in found.classes]
    return pd.concat([leading, pd.DataFrame(found.probabilities, columns=columns)], axis=1)


def _named(frame: pd.DataFrame, config: str, fold: int, *, epoch: bool = False) -> pd.DataFrame:
    if epoch:
        frame.insert(0, "epoch", np.arange(1, len(frame) + 1))
    frame.insert(0, "fold", fold)
    frame.insert(0, "config", config)
    return frame


def _joined(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _summary_rows(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    headline = summary.get("headline") or {"scores": {}}
    for score, value in headline["scores"].items():
        low, high = headline["intervals"][score] or (None, None)
        yield {"epoch": "headline", "score": score, "out_of_fold": value, "low": low, "high": high}
    intervals = (summary["confidence_intervals"] or {}).get("out_of_fold", {})
    untrained = summary["baselines"]["untrained_model"]
    for epoch in BLOCKS:
        averages = summary[epoch]["average_results"]
        pooled = summary[epoch]["out_of_fold"] or {}
        for column in averages:
            if not column.startswith("avg_val_"):
                continue
            score = column.removeprefix("avg_val_")
            best = epoch == "best_epoch"
            low, high = (intervals.get(score) if best else None) or (None, None)
            yield {
                "epoch": epoch,
                "score": score,
                "mean": averages[column],
                "std": averages[f"std_val_{score}"],
                "n": averages.get(f"n_val_{score}", averages["n"]),
                "out_of_fold": pooled.get(score),
                "low": low,
                "high": high,
                "mean_untrained": untrained.get(column),
            }
