"""Images as places in a fold's joint space: features to search, cluster or draw.

Legend: N images, D embedding size.

Every fold has learned a space of its own. Distances between images that different folds embedded
mean little; compare within a fold.
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
from clip_pkg.study.inspection import Progress


@dataclass(frozen=True, eq=False)
class Embeddings:
    """N embedded images.

    paths: N names. features: [N, D] float32, before normalisation; class texts are compared with
    their directions. folds: [N] int64, number of the fold whose model embedded each. labels: N
    class names, or None where they are not known. unreadable: images without features.
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
    progress: Progress | None = None,
) -> Embeddings:
    """Embed images with one fold's model. Unreadable ones: see `readable_batches`."""
    names: list[str] = []
    parts = [np.empty((0, fold.classifier.model.embed_dim), dtype=np.float32)]
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
                parts.append(fold.embeddings(batch.pixels))
    return Embeddings(
        tuple(names),
        np.concatenate(parts),
        np.full(len(names), fold.fold, dtype=np.int64),
        unreadable=tuple(unreadable),
    )


def embed_out_of_fold(
    paths: ConfigPaths, data_dir: Path, device: torch.device, *, progress: Progress | None = None
) -> Embeddings:
    """Embed a config's own images, each by the fold that was not trained on it.

    The folds' images come one fold after the other, in the order of their `predictions.csv`.
    data_dir: what the config was trained with, see `held_out_images`, whose errors this raises.
    """
    return embed_held_out(held_out_images(paths, data_dir), device, progress=progress)


def embed_held_out(
    held_out: HeldOut, device: torch.device, *, progress: Progress | None = None
) -> Embeddings:
    """Embed what was found, fold after fold."""
    parts: list[Embeddings] = []
    done = 0

    def advance(in_fold: int, _total: int) -> None:
        if progress is not None:
            progress(done + in_fold, len(held_out))

    for fold, model in unseeing_folds(held_out, device):
        parts.append(embed(model, fold.images, progress=advance))
        done += len(fold.images)
    return Embeddings(
        paths=tuple(path for part in parts for path in part.paths),
        features=np.concatenate([part.features for part in parts]),
        folds=np.concatenate([part.folds for part in parts]),
        labels=tuple(label for fold in held_out.folds for label in fold.labels),
    )
