"""`predictions.csv`: predicted probabilities of each validation image of a fold."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DamagedFile, RunFolderError, UserError
from clip_pkg.base.files import write_text
from clip_pkg.base.reading import open_regular
from clip_pkg.base.spreadsheet import escape_cell, unescape_cell
from clip_pkg.study.fold_files import AGAIN

LEADING_COLUMNS = ("path", "label", "prediction")
PROBABILITY_PREFIX = "prob_"
ROUNDING = 1e-4  # of probabilities that a model computed in low precision
_START = ",".join([*LEADING_COLUMNS, ""]).encode()


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
    """Read the output of `Predictions.write`. Raises DamagedFile for anything else."""
    try:
        with open_regular(path) as stream:
            if stream.peek(len(_START))[: len(_START)] != _START:
                raise ValueError("it does not start with the names of columns")
            text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
            header, *rows = list(csv.reader(text, strict=True))
        names = [name.removeprefix(PROBABILITY_PREFIX) for name in header[len(LEADING_COLUMNS) :]]
        position = {name: index for index, name in enumerate(names)}
        paths = tuple(unescape_cell(row[0]) for row in rows)
        probabilities = np.array(
            [row[len(LEADING_COLUMNS) :] for row in rows], dtype=np.float64
        ).reshape(len(rows), len(names))
        if not names or not rows:
            raise ValueError("it has no predictions")
        if len(position) < len(names) or len(set(paths)) < len(paths):
            raise ValueError("a class or an image is listed twice")
        if not ((probabilities >= -ROUNDING) & (probabilities <= 1 + ROUNDING)).all():
            raise ValueError("a probability is not in 0 to 1")
        return Predictions(
            classes=tuple(names),
            paths=paths,
            targets=np.array([position[unescape_cell(row[1])] for row in rows], dtype=np.int64),
            probabilities=probabilities,
        )
    except FileNotFoundError:
        raise DamagedFile(path, "is missing", AGAIN) from None
    except UserError as error:  # a folder or device
        raise DamagedFile(path, f"cannot be read ({error})", AGAIN) from None
    except (OSError, ValueError, KeyError, IndexError, csv.Error) as error:
        raise DamagedFile(path, f"is damaged ({error or type(error).__name__})", AGAIN) from None


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
