"""One answer per image from the models of one or several folds.

Legend: B images of a batch, K folds, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clip_pkg.errors import CheckpointError
from clip_pkg.inference.answer_file import Answers
from clip_pkg.inference.fold_classifier import FoldClassifier, memory_of
from clip_pkg.inference.images import ImageFile
from clip_pkg.inference.squares import readable_batches
from clip_pkg.metrics.temperature import tempered
from clip_pkg.planning.inspection import Progress


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
