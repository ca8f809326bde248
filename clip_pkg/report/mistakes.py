"""The answers that were wrong and sure of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clip_pkg.report.results import FoldOutcome

MOST_SHOWN = 8


@dataclass(frozen=True)
class Mistake:
    """A wrong out-of-fold answer.

    fold counts from 1; row is the image's place in the fold's predictions. label, answer: class
    positions. confidence, true_probability: of the answer and of the label.
    """

    fold: int
    row: int
    path: str
    label: int
    answer: int
    confidence: float
    true_probability: float


def worst_mistakes(folds: Sequence[FoldOutcome], limit: int | None = None) -> list[Mistake]:
    """Wrong answers of all folds, the surest first."""
    found = []
    for fold in folds:
        answers = fold.predictions
        chosen = answers.probabilities.argmax(axis=1)
        for row in (chosen != answers.targets).nonzero()[0].tolist():
            label, answer = int(answers.targets[row]), int(chosen[row])
            found.append(
                Mistake(
                    fold=fold.number,
                    row=row,
                    path=answers.paths[row],
                    label=label,
                    answer=answer,
                    confidence=float(answers.probabilities[row, answer]),
                    true_probability=float(answers.probabilities[row, label]),
                )
            )
    found.sort(key=lambda one: (-one.confidence, one.path))
    return found[:limit]
