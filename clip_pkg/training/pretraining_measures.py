"""Measures of a pre-training: spread of its features, and a probe of them with labels.

They do not affect the training.

Legend: N images, D size of a feature, P size that the loss compares.
"""

from __future__ import annotations

from collections import deque
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
from clip_pkg.losses.functional.numerics import widest_float
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
from clip_pkg.training.history import Columns

MAX_PAIRS = 2048  # the last of an epoch, whose spread is measured
MAX_PROBED = 10_000  # images, so that a probe costs little beside an epoch
HELD_OUT = 0.1  # share of these that neighbours and probe classify
# Features count as collapsed below. Healthy ones use tens of dimensions, and their standard
# deviation is near 1/√P; it is 0 where all are the same (Chen and He 2021, figure 2).
MIN_RANK = 2.0
MIN_SPREAD = 0.1  # of 1/√P

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

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add a batch of views [B, P], and drop those that are no longer needed."""
        self._batches.append((first.float(), second.float()))
        later = sum(len(first) for first, _ in self._batches) - len(self._batches[0][0])
        if later >= MAX_PAIRS:
            self._batches.popleft()

    def measures(self) -> Columns:
        """Columns of an epoch's row."""
        first, second = (_wide(torch.cat(views)) for views in zip(*self._batches, strict=True))
        return {
            "alignment": alignment(first, second),
            "uniformity": uniformity(first),
            "effective_rank": effective_rank(nn.functional.normalize(first.double(), dim=1)),
            "feature_std": feature_std(first),
        }


def collapse(row: Columns, dim: int) -> str | None:
    """Message if projected features [N, dim] have collapsed, with a remedy; None if not.

    row: has the columns of `RecentPairs.measures`.
    """
    rank, std, spread = row["effective_rank"], row["feature_std"], dim**-0.5
    assert rank is not None
    assert std is not None
    if rank >= MIN_RANK and std >= MIN_SPREAD * spread:
        return None
    return (
        f"The features have collapsed: all images look nearly alike to the encoder (effective "
        f"rank {rank:.1f} of {dim}, standard deviation {std:.2g} where spread-out features have "
        f"{spread:.2g}). A smaller pretrain.optimizer.learning_rate, a larger pretrain.batch_size "
        "or a larger pretrain.loss.temperature usually helps, for vicreg a larger "
        "variance_weight."
    )


@dataclass(frozen=True)
class LabelProbe:
    """Classifies held-out images by nearest neighbours and a linear probe of an encoder's features.

    fitted, held_out: images of the pre-training itself, apart from each other.
    """

    fitted: EvalBatches
    held_out: EvalBatches

    def __call__(self, encoder: nn.Module, precision: Precision) -> Columns:
        """Columns of an epoch's row, in percent."""
        fitted = _features(encoder, self.fitted, precision)
        held_out = _features(encoder, self.held_out, precision)
        found = neighbour_accuracy(*fitted, *held_out), probe_accuracy(*fitted, *held_out)
        return {name: 100 * value for name, value in zip(LABEL_COLUMNS, found, strict=True)}


@torch.inference_mode()
def _features(
    encoder: nn.Module, batches: EvalBatches, precision: Precision
) -> tuple[Tensor, Tensor]:
    """Features [N, D] and labels [N] of all batches, in evaluation mode."""
    was_training = encoder.training
    encoder.eval()
    try:
        with precision.autocast():
            found = [(encoder(batch.images).float(), batch.targets) for batch in batches]
    finally:
        encoder.train(was_training)
    values, labels = (_wide(torch.cat(tensors)) for tensors in zip(*found, strict=True))
    return values, labels


def _wide(tensor: Tensor) -> Tensor:
    """Move to the CPU what is computed in float64, if its device has none."""
    return tensor if widest_float(tensor.device) is torch.float64 else tensor.cpu()


def label_probe(
    config: RunConfig,
    source: PixelSource,
    manifest: Manifest,
    splits: Splits,
    *,
    indices: NDArray[np.int64],
    augmentation: Augmentation,
    fold: int,
) -> LabelProbe | None:
    """Hold out a tenth of the images, by patients; None if labels cannot be used.

    They cannot if the images have one class, if validation images are among them, or if there are
    too few to hold any out.
    """
    assert config.pretrain is not None, "this is a pre-training"
    if not config.pretrain.is_per_fold or len(np.unique(manifest.labels[indices])) < 2:
        return None
    seed = derive_seed(config.random_state, fold, "probed images")
    if len(indices) > MAX_PROBED:
        chosen = np.random.default_rng(seed).choice(len(indices), MAX_PROBED, replace=False)
        indices = indices[np.sort(chosen)]
    try:
        fitted, held_out = inner_split(
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

    return LabelProbe(batches(fitted), batches(held_out))
