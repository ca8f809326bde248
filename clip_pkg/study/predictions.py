"""`predictions.csv`: what a fold's model said about each validation image."""

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

LEADING_COLUMNS = ("path", "label", "prediction")
PROBABILITY_PREFIX = "prob_"


@dataclass(frozen=True)
class Predictions:
    """N answers over C classes.

    paths: N, as in the manifest. targets: [N] int64 class positions. probabilities: [N, C] float64.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def write(self, path: Path) -> None:
        """Write the CSV; probabilities with all digits, so that every metric can be recomputed."""
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*LEADING_COLUMNS, *(PROBABILITY_PREFIX + name for name in self.classes)])
        chosen = self.probabilities.argmax(axis=1)
        for row, image in enumerate(self.paths):
            label, prediction = self.classes[self.targets[row]], self.classes[chosen[row]]
            writer.writerow(
                [image, label, prediction, *map(repr, self.probabilities[row].tolist())]
            )
        write_text(path, stream.getvalue())


def read_predictions(path: Path) -> Predictions:
    """Read a CSV that `Predictions.write` made. Raises RunFolderError if it is not one."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            header, *rows = list(csv.reader(stream))
        names = [name.removeprefix(PROBABILITY_PREFIX) for name in header[len(LEADING_COLUMNS) :]]
        position = {name: index for index, name in enumerate(names)}
        return Predictions(
            classes=tuple(names),
            paths=tuple(row[0] for row in rows),
            targets=np.array([position[row[1]] for row in rows], dtype=np.int64),
            probabilities=np.array(
                [row[len(LEADING_COLUMNS) :] for row in rows], dtype=np.float64
            ).reshape(len(rows), len(names)),
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise RunFolderError(f"{path} cannot be read as predictions: {error!r}") from None


def pooled(parts: Sequence[Predictions]) -> Predictions:
    """Join the folds' validation predictions. Raises RunFolderError when they do not fit."""
    classes = parts[0].classes
    if any(part.classes != classes for part in parts):
        raise RunFolderError(
            "the folds' predictions name different classes; they do not belong together"
        )
    paths = tuple(path for part in parts for path in part.paths)
    if len(set(paths)) != len(paths):
        raise RunFolderError(
            "an image was predicted in two folds; the folds do not belong together"
        )
    return Predictions(
        classes=classes,
        paths=paths,
        targets=np.concatenate([part.targets for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
    )
