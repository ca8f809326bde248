"""One answer per image from the models of one or several folds.

Legend: B images of a batch, K folds, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clip_pkg.errors import CheckpointError, DataError, UserError
from clip_pkg.inference.answer_file import Answers
from clip_pkg.inference.fold_classifier import FoldClassifier
from clip_pkg.inference.images import ImageFile
from clip_pkg.inference.squares import square_batches
from clip_pkg.planning.decoding import UnreadableImage
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
    """K folds of one config; its probabilities are the mean of theirs. K may be 1."""

    folds: tuple[FoldClassifier, ...]

    @classmethod
    def load(cls, checkpoints: Sequence[Path], device: torch.device) -> Ensemble:
        """Rebuild the models. Raises CheckpointError for unfit files and files of several runs."""
        with _memory_of(device):
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
        with _memory_of(self.folds[0].device):
            total = self.folds[0].probabilities(pixels)
            for fold in self.folds[1:]:
                total += fold.probabilities(pixels)
        return total / len(self.folds)

    def answers(
        self,
        images: Sequence[ImageFile],
        *,
        skip_unreadable: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Answers]:
        """Look at all images in batches, while the next ones are decoded.

        Without `skip_unreadable` nothing is answered from the first unreadable image on, the others
        are only checked, and a DataError that names all unreadable ones comes at the end. So it
        does in any case when not a single image can be read. `progress` is called with (done,
        total) after each batch.
        """
        unreadable: list[UnreadableImage] = []
        done = 0
        first = self.folds[0]
        for batch in square_batches(images, size=first.store_size, batch_size=first.batch_size):
            unreadable += batch.unreadable
            if skip_unreadable or not unreadable:
                yield Answers(batch.images, self.probabilities(batch.pixels), batch.unreadable)
            done += len(batch.images) + len(batch.unreadable)
            if progress is not None:
                progress(done, len(images))
        if unreadable and (not skip_unreadable or len(unreadable) == len(images)):
            head = f"{len(unreadable)} of {len(images)} image(s) cannot be read:"
            hint = () if skip_unreadable else ("--skip-unreadable leaves them out",)
            raise DataError("\n  ".join([head, *map(str, unreadable), *hint]))


@contextmanager
def _memory_of(device: torch.device) -> Iterator[None]:
    """Turn a full GPU into a sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"{device}: the models and a batch of images do not fit into its free memory; name "
            "fewer folds, or use --device cpu"
        ) from None
