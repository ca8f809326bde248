"""`predictions.csv`: predicted probabilities of each validation image of a fold."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.files import write_text
from clip_pkg.base.spreadsheet import escape_cell, unescape_cell

LEADING_COLUMNS = ("path", "label", "prediction")
PROBABILITY_PREFIX = "prob_"


@dataclass(frozen=True)
class Predictions:
    """Predictions for N images over C classes.

    paths: N, as in the manifest. targets: [N] int64 class positions. probabilities: [N, C] float64.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def sorted(self) -> Predictions:
        """The same in the order of the paths, in which the images of all configs agree."""
        order = sorted(range(len(self.paths)), key=self.paths.__getitem__)
        return Predictions(
            classes=self.classes,
            paths=tuple(self.paths[index] for index in order),
            targets=self.targets[order],
            probabilities=self.probabilities[order],
        )

    def write(self, path: Path) -> None:
        """Write the CSV, with all digits, so that every metric can be recomputed."""
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*LEADING_COLUMNS, *(PROBABILITY_PREFIX + name for name in self.classes)])
        chosen = self.probabilities.argmax(axis=1)
        for row, image in enumerate(self.paths):
            label, prediction = self.classes[self.targets[row]], self.classes[chosen[row]]
            writer.writerow(
                [
                    *map(escape_cell, (image, label, prediction)),
                    *map(repr, self.probabilities[row].tolist()),
                ]
            )
        write_text(path, stream.getvalue())


def read_predictions(path: Path) -> Predictions:
    """Read the output of `Predictions.write`. Raises RunFolderError for anything else."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            header, *rows = list(csv.reader(stream))
        names = [name.removeprefix(PROBABILITY_PREFIX) for name in header[len(LEADING_COLUMNS) :]]
        position = {name: index for index, name in enumerate(names)}
        return Predictions(
            classes=tuple(names),
            paths=tuple(unescape_cell(row[0]) for row in rows),
            targets=np.array([position[unescape_cell(row[1])] for row in rows], dtype=np.int64),
            probabilities=np.array(
                [row[len(LEADING_COLUMNS) :] for row in rows], dtype=np.float64
            ).reshape(len(rows), len(names)),
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise RunFolderError(f"{path} cannot be read as predictions: {error!r}") from None


def pooled(folds: Sequence[Predictions], repeats: Sequence[int] | None = None) -> Predictions:
    """Concatenate the predictions of several folds.

    repeats: of each fold; None: all are of one. An image has one prediction per repeat.
    Raises RunFolderError if they do not match.
    """
    classes = folds[0].classes
    if any(fold.classes != classes for fold in folds):
        raise RunFolderError(
            "the folds' predictions have different classes; they do not belong together"
        )
    numbers = [1] * len(folds) if repeats is None else repeats
    pairs = [(r, path) for r, fold in zip(numbers, folds, strict=True) for path in fold.paths]
    if len(set(pairs)) != len(pairs):
        raise RunFolderError(
            "an image was predicted in two folds; the folds do not belong together"
        )
    return Predictions(
        classes=classes,
        paths=tuple(path for _, path in pairs),
        targets=np.concatenate([fold.targets for fold in folds]),
        probabilities=np.concatenate([fold.probabilities for fold in folds]),
    )
