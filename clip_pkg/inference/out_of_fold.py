"""A config's own images, each answered by the fold that was not trained on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from clip_pkg.errors import CheckpointError
from clip_pkg.inference.answer_file import Answers
from clip_pkg.inference.ensemble import Ensemble
from clip_pkg.inference.fold_classifier import FoldClassifier, memory_of
from clip_pkg.inference.held_out import HeldOut, HeldOutFold
from clip_pkg.planning.inspection import Progress


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
