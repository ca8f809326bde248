"""One answer per image from the models of one or several folds.

Legend: B images of a batch, K folds, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from clip_pkg.study.inspection import Progress


def check_one_run(members: Sequence[tuple[Path, Sequence[str], Mapping[str, str]]]) -> None:
    """Raise CheckpointError where files, with their classes and identities, are of several runs."""
    first, *others = members
    for source, classes, identity in others:
        if (list(classes), identity) != (list(first[1]), first[2]):
            raise CheckpointError(
                f"{source} and {first[0]} are of different runs; their mean would be of nothing"
            )


@dataclass(frozen=True, eq=False)
class Ensemble:
    """K folds of one config; its probabilities are the mean of theirs. K may be 1.

    temperature: at which each fold's probabilities are taken, see `metrics.temperature`.
    """

    folds: tuple[FoldClassifier, ...]
    temperature: float = 1.0

    @classmethod
    def load(cls, checkpoints: Sequence[Path], device: torch.device) -> Ensemble:
        """Rebuild the models. Raises CheckpointError for unfit files and files of several runs."""
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
        if self.temperature == 1.0:  # to the last bit as they were
            return probabilities
        return tempered(probabilities, self.temperature)

    def answers(
        self,
        images: Sequence[ImageFile],
        *,
        skip_unreadable: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Answers]:
        """Look at all images while the next ones are decoded; see `readable_batches`."""
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
    """Load one fold after the other; only one model is in memory at a time.

    Raises CheckpointError for a model that was trained with another division of the images.
    """
    for fold in held_out.folds:
        with memory_of(device):
            model = FoldClassifier.load(fold.checkpoint, device)
        if model.identity.get("splits") != held_out.splits:
            raise CheckpointError(
                f"{fold.checkpoint} was trained with other folds than these: it may have seen the "
                "images"
            )
        yield fold, model
        del model


def out_of_fold_answers(
    held_out: HeldOut,
    device: torch.device,
    prepared: Callable[[FoldClassifier], Ensemble],
    *,
    progress: Progress | None = None,
) -> Iterator[Answers]:
    """Answer the images fold by fold, with the labels that they had in training.

    prepared: makes what answers of a fold's model. On a CPU with as many threads, its plain answers
    are those of the folds' `predictions.csv` to the last bit.
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
