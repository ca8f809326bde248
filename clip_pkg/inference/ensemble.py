"""Predictions of an ensemble of folds, and of each fold for its held-out images.

Legend: B images of a batch, K folds, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clip_pkg.base.errors import CheckpointError
from clip_pkg.inference.answer_file import Answers
from clip_pkg.inference.fold_classifier import FoldClassifier, memory_of
from clip_pkg.inference.held_out import HeldOut, HeldOutFold
from clip_pkg.inference.images import ImageFile, readable_batches
from clip_pkg.metrics.calibration import tempered
from clip_pkg.study.identity import Identity
from clip_pkg.study.inspection import OnProgress


def check_one_run(members: Sequence[tuple[Path, Sequence[str], Identity]]) -> None:
    """Raise CheckpointError if members (file, classes, identity) come from different runs."""
    first, *others = members
    for source, classes, identity in others:
        if (list(classes), identity) != (list(first[1]), first[2]):
            raise CheckpointError(
                f"{source} and {first[0]} come from different runs and cannot be averaged"
            )


@dataclass(frozen=True, eq=False)
class Ensemble:
    """K ≥ 1 folds of one config, whose probabilities are averaged.

    temperature: divides the logits of each fold, see `metrics.calibration`.
    """

    folds: tuple[FoldClassifier, ...]
    temperature: float = 1.0

    @classmethod
    def load(cls, checkpoints: Sequence[Path], device: torch.device) -> Ensemble:
        """Rebuild the models. Raises CheckpointError for unusable or mixed files."""
        with memory_of(device):
            folds = tuple(FoldClassifier.load(path, device) for path in checkpoints)
        check_one_run([(one.source, one.classes, one.identity) for one in folds])
        return cls(folds)

    @property
    def classes(self) -> tuple[str, ...]:
        """C names."""
        return self.folds[0].classes

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Squares [B, S, S, 3] → [B, C]; see `FoldClassifier.probabilities`. B may be 0."""
        if not len(pixels):
            return np.empty((0, len(self.classes)))
        with memory_of(self.folds[0].device):
            total = self._of_one(self.folds[0], pixels)
            for fold in self.folds[1:]:
                total += self._of_one(fold, pixels)
        return total / len(self.folds)

    def _of_one(self, fold: FoldClassifier, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        probabilities = fold.probabilities(pixels)
        if self.temperature == 1.0:  # bit-identical to predictions.csv
            return probabilities
        return tempered(probabilities, self.temperature)

    def answers(
        self,
        images: Sequence[ImageFile],
        *,
        skip_unreadable: bool = False,
        progress: OnProgress | None = None,
    ) -> Iterator[Answers]:
        """Predict all images while the next ones are decoded; see `readable_batches`."""
        first = self.folds[0]
        for batch in readable_batches(
            images,
            size=first.store_size,
            batch_size=first.batch_size,
            skip_unreadable=skip_unreadable,
            progress=progress,
        ):
            yield Answers(batch.images, self.probabilities(batch.pixels), batch.unreadable)


def unseeing_folds(
    held_out: HeldOut, device: torch.device
) -> Iterator[tuple[HeldOutFold, FoldClassifier]]:
    """Load the folds one at a time; a single model is in memory.

    Raises CheckpointError for a model that was trained on other splits.
    """
    for fold in held_out.folds:
        with memory_of(device):
            model = FoldClassifier.load(fold.checkpoint, device)
        if model.identity.splits != held_out.splits:
            raise CheckpointError(
                f"{fold.checkpoint} was trained with other splits, so it may have seen these images"
            )
        yield fold, model
        del model


def out_of_fold_answers(
    held_out: HeldOut,
    device: torch.device,
    prepared: Callable[[FoldClassifier], Ensemble],
    *,
    progress: OnProgress | None = None,
) -> Iterator[Answers]:
    """Predict held-out images fold by fold, with their labels.

    prepared: makes an ensemble from a fold's model. With the same number of CPU threads, the
    predictions of the plain model equal those of `predictions.csv` to the last bit.
    """
    done = 0
    for fold, model in unseeing_folds(held_out, device):
        labels = iter(fold.labels)
        for answers in prepared(model).answers(fold.images):
            done += len(answers.images)
            own = tuple(next(labels) for _ in answers.images)
            yield replace(answers, labels=own, fold=fold.number)
            if progress is not None:
                progress(done, len(held_out))
