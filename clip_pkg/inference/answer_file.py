"""Files of predictions, CSV or JSON by suffix, streamed and written completely or not at all.

No torch here, so that an unwritable path is reported before a model is loaded.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.files import replacing
from clip_pkg.base.spreadsheet import escape_cell
from clip_pkg.inference.images import ImageFile
from clip_pkg.study.decoding import UnreadableImage
from clip_pkg.study.predictions import PROBABILITY_PREFIX

LEADING_COLUMNS = ("path", "prediction")
LEADING_COLUMNS_IF_KNOWN = ("path", "label", "fold", "prediction")
SUFFIXES = (".csv", ".json")


@dataclass(frozen=True, eq=False)
class Answers:
    """Predictions for B images.

    images: B. probabilities: [B, C] float64, rows sum to 1. unreadable: images without a
    prediction. labels: B true classes, fold: of the model; both None if unknown.
    """

    images: tuple[ImageFile, ...]
    probabilities: NDArray[np.float64]
    unreadable: tuple[UnreadableImage, ...] = ()
    labels: tuple[str, ...] | None = None
    fold: int | None = None


def write_answers(
    path: Path, classes: Sequence[str], answers: Iterable[Answers], *, known: bool = False
) -> None:
    """Write one row or object per image, probabilities in full precision.

    known: write the columns `label` and `fold`.
    Raises UserError if the file cannot be written, and any error of `answers`; an existing file is
    then unchanged.
    """
    write = _write_json if path.suffix.lower() == ".json" else _write_csv
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as binary:
            stream = io.TextIOWrapper(binary, encoding="utf-8", newline="")
            try:
                leading = LEADING_COLUMNS_IF_KNOWN if known else LEADING_COLUMNS
                columns = [*leading, *(PROBABILITY_PREFIX + name for name in classes)]
                write(stream, columns, _rows(classes, answers, known=known))
            finally:
                stream.detach()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{shown(path)}: cannot be written: {reason}") from None


def _rows(
    classes: Sequence[str], answers: Iterable[Answers], *, known: bool
) -> Iterator[list[str | float]]:
    for some in answers:
        chosen = some.probabilities.argmax(axis=1).tolist()
        values = some.probabilities.tolist()
        for number, image in enumerate(some.images):
            facts: list[str | float] = []
            if known:
                assert some.labels is not None, "known predictions have labels"
                assert some.fold is not None, "known predictions have a fold"
                facts = [some.labels[number], some.fold]
            yield [image.name, *facts, classes[chosen[number]], *values[number]]


def _write_csv(stream: TextIO, columns: list[str], rows: Iterator[list[str | float]]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([*map(escape_cell, row)] for row in rows)


def _write_json(stream: TextIO, columns: list[str], rows: Iterator[list[str | float]]) -> None:
    separator = "[\n"
    for row in rows:
        values = dict(zip(columns, row, strict=True))
        stream.write(separator + json.dumps(values, ensure_ascii=False, allow_nan=False))
        separator = ",\n"
    stream.write("\n]\n")
