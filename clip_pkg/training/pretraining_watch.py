"""Looks at what a pre-training has learned so far; what they see changes nothing.

Legend: N images, D size of a feature, P size that the loss compares.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clip_pkg.base.errors import DataError
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import Augmentation
from clip_pkg.data.batches import EvalBatches
from clip_pkg.data.pixel_sources import PixelSource
from clip_pkg.data.sampling import derive_seed
from clip_pkg.metrics.representation import (
    alignment,
    effective_rank,
    feature_std,
    neighbour_accuracy,
    probe_accuracy,
    uniformity,
)
from clip_pkg.models.precision import Precision
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.splits import Splits, inner_split
from clip_pkg.training.pretraining_step import ViewsOutcome

MOST_PAIRS = 2048  # the last of an epoch, whose spread is measured
MOST_PROBED = 10_000  # images, so that a look costs little beside an epoch
HELD_OUT = 0.1  # of these, which neighbours and probe are asked about
# Features are taken to have collapsed below. Healthy ones use tens of dimensions, and their
# standard deviation is near 1/√P; it is 0 where all are one (Chen and He 2021, figure 2).
LOWEST_RANK = 2.0
LOWEST_SPREAD = 0.1  # of 1/√P

LABEL_COLUMNS = ("knn_acc", "probe_acc")
TAGS = {
    "alignment": "Features/alignment",
    "uniformity": "Features/uniformity",
    "effective_rank": "Features/effective_rank",
    "feature_std": "Features/standard_deviation",
    "knn_acc": "Features/knn_accuracy",
    "probe_acc": "Features/probe_accuracy",
}


@dataclass
class RecentPairs:
    """The projected views of an epoch's last batches, on the device."""

    _batches: deque[tuple[Tensor, Tensor]] = field(default_factory=deque)

    def add(self, outcome: ViewsOutcome) -> None:
        """Take in a batch, and let go of those that are no longer needed."""
        self._batches.append((outcome.first.float(), outcome.second.float()))
        later = sum(len(first) for first, _ in self._batches) - len(self._batches[0][0])
        if later >= MOST_PAIRS:
            self._batches.popleft()

    def measures(self) -> dict[str, float | None]:
        """Columns of an epoch's row."""
        first, second = (torch.cat(views) for views in zip(*self._batches, strict=True))
        return {
            "alignment": alignment(first, second),
            "uniformity": uniformity(first),
            "effective_rank": effective_rank(nn.functional.normalize(first.double(), dim=1)),
            "feature_std": feature_std(first),
        }


def collapse(row: dict[str, float | None], dim: int) -> str | None:
    """Say that projected features [N, dim] have collapsed, and what helps; None if they have not.

    row: has the columns of `RecentPairs.measures`.
    """
    rank, std, spread = row["effective_rank"], row["feature_std"], dim**-0.5
    assert rank is not None
    assert std is not None
    if rank >= LOWEST_RANK and std >= LOWEST_SPREAD * spread:
        return None
    return (
        f"The features have collapsed: all images look nearly alike to the encoder (effective "
        f"rank {rank:.1f} of {dim}, standard deviation {std:.2g} where spread-out features have "
        f"{spread:.2g}). A smaller pretrain.optimizer.learning_rate, a larger pretrain.batch_size "
        "or a larger pretrain.loss.temperature usually helps, for vicreg a larger "
        "variance_weight."
    )


class LabelledLook:
    """Asks neighbours and a linear probe of an encoder's features about held-out images.

    known, asked: images of the pre-training itself, apart from each other.
    """

    def __init__(self, known: EvalBatches, asked: EvalBatches) -> None:
        self._known = known
        self._asked = asked

    @property
    def batch_size(self) -> int:
        """Images that the encoder sees at once."""
        return self._known.batch_size

    def __call__(self, encoder: nn.Module, precision: Precision) -> dict[str, float | None]:
        """Columns of an epoch's row, in percent."""
        known, labels = features(encoder, self._known, precision)
        asked, answers = features(encoder, self._asked, precision)
        found = (
            neighbour_accuracy(known, labels, asked, answers),
            probe_accuracy(known, labels, asked, answers),
        )
        return {name: 100 * value for name, value in zip(LABEL_COLUMNS, found, strict=True)}


@torch.inference_mode()
def features(
    encoder: nn.Module, batches: EvalBatches, precision: Precision
) -> tuple[Tensor, Tensor]:
    """Features [N, D] and labels [N] of all batches, in evaluation mode."""
    with _evaluating(encoder), precision.autocast():
        found = [(encoder(batch.images).float(), batch.targets) for batch in batches]
    values, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return values, labels


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def labelled_look(
    config: RunConfig,
    source: PixelSource,
    manifest: Manifest,
    splits: Splits,
    *,
    indices: NDArray[np.int64],
    augmentation: Augmentation,
    fold: int,
) -> LabelledLook | None:
    """Hold a tenth of the images out; None where there is nothing to ask about.

    That is where the images have one class, where validation images, whose labels nothing may see,
    are among them, or where there are too few to hold any out. Patients stay on one side.
    """
    assert config.pretrain is not None, "this is a pre-training"
    if not config.pretrain.is_per_fold or len(np.unique(manifest.labels[indices])) < 2:
        return None
    seed = derive_seed(config.random_state, fold, "probed images")
    if len(indices) > MOST_PROBED:
        chosen = np.random.default_rng(seed).choice(len(indices), MOST_PROBED, replace=False)
        indices = indices[np.sort(chosen)]
    try:
        known, asked = inner_split(
            manifest, indices, HELD_OUT, seed=config.random_state, linked=splits.linked
        )
    except DataError:
        return None

    def batches(of: NDArray[np.int64]) -> EvalBatches:
        return EvalBatches(
            source,
            manifest.labels,
            of,
            batch_size=config.batch_size,
            augmentation=augmentation,
            most=config.micro_batch_size,
        )

    return LabelledLook(batches(known), batches(asked))
