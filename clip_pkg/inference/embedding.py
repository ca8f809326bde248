"""Image embeddings in a fold's joint space, to search, cluster or plot.

Legend: N images, D embedding size.

Each fold has an embedding space of its own: compare images within a fold, not across folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clip_pkg.base.paths import ConfigPaths
from clip_pkg.inference.ensemble import unseeing_folds
from clip_pkg.inference.fold_classifier import FoldClassifier, memory_of
from clip_pkg.inference.held_out import HeldOut, held_out_images
from clip_pkg.inference.images import ImageFile, readable_batches
from clip_pkg.study.decoding import UnreadableImage
from clip_pkg.study.inspection import OnProgress


@dataclass(frozen=True, eq=False)
class Embeddings:
    """N embedded images.

    paths: N names. features: [N, D] float32, before normalisation. folds: [N] int64, the fold of
    the model. labels: N class names, or None if unknown. unreadable: images without features.
    """

    paths: tuple[str, ...]
    features: NDArray[np.float32]
    folds: NDArray[np.int64]
    labels: tuple[str, ...] | None = None
    unreadable: tuple[UnreadableImage, ...] = ()


def embed(
    fold: FoldClassifier,
    images: Sequence[ImageFile],
    *,
    skip_unreadable: bool = False,
    progress: OnProgress | None = None,
) -> Embeddings:
    """Embed images with one fold's model; for unreadable ones see `readable_batches`."""
    names: list[str] = []
    features = [np.empty((0, fold.classifier.model.embed_dim), dtype=np.float32)]
    unreadable: list[UnreadableImage] = []
    with memory_of(fold.device):
        for batch in readable_batches(
            images,
            size=fold.store_size,
            batch_size=fold.batch_size,
            skip_unreadable=skip_unreadable,
            progress=progress,
        ):
            unreadable += batch.unreadable
            if batch.images:
                names += [image.name for image in batch.images]
                features.append(fold.embeddings(batch.pixels))
    return Embeddings(
        tuple(names),
        np.concatenate(features),
        np.full(len(names), fold.fold, dtype=np.int64),
        unreadable=tuple(unreadable),
    )


def embed_out_of_fold(
    paths: ConfigPaths, data_dir: Path, device: torch.device, *, progress: OnProgress | None = None
) -> Embeddings:
    """Embed the training images of a config, each with the fold that held it out.

    Images are ordered by fold, then as in its `predictions.csv`; each is there once per repeat.
    data_dir: the training data, see `held_out_images`, whose errors this raises.
    """
    return embed_held_out(held_out_images(paths, data_dir), device, progress=progress)


def embed_held_out(
    held_out: HeldOut, device: torch.device, *, progress: OnProgress | None = None
) -> Embeddings:
    folds: list[Embeddings] = []
    done = 0

    def advance(in_fold: int, _total: int) -> None:
        if progress is not None:
            progress(done + in_fold, len(held_out))

    for fold, model in unseeing_folds(held_out, device):
        folds.append(embed(model, fold.images, progress=advance))
        done += len(fold.images)
    return Embeddings(
        paths=tuple(path for one in folds for path in one.paths),
        features=np.concatenate([one.features for one in folds]),
        folds=np.concatenate([one.folds for one in folds]),
        labels=tuple(label for fold in held_out.folds for label in fold.labels),
    )
