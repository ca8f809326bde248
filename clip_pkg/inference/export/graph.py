"""Trained folds as one function of pixels, in float32, and what they come down to.

Legend: B images, C classes, D embedding size, K folds, S side of the square in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_pkg.classifier import Classifier
from clip_pkg.inference.fold_classifier import FoldClassifier
from clip_pkg.precision import Precision

# The precision of what leaves the project: programs elsewhere choose their own.
FLOAT32 = Precision("cpu", None, torch.contiguous_format)
OUTPUTS = ("probabilities", "logits", "embedding")
ROWS_AT_ONCE = 256
LARGEST_ERROR = 1e-4  # of logits that a linear head is to give, relative to the largest of them

HeadInput: TypeAlias = Literal["unit embedding", "embedding"]


class ExportGraph(nn.Module):
    """K folds of one config: pixels uint8 [B, S, S, 3], RGB → probabilities, logits, embedding.

    probabilities: [B, C], the mean of the folds'. logits: [B, C], whose softmax they are.
    embedding: [B, K·D] of length 1, the folds' unit embeddings one after another over √K, so that
    the cosine of two is the mean of the folds' cosines.
    """

    def __init__(self, folds: Sequence[FoldClassifier]) -> None:
        super().__init__()
        self._folds = tuple(folds)
        # The modules of the folds, so that the exporter knows their weights as such.
        self.models = nn.ModuleList(fold.classifier.model for fold in folds)
        self.objectives = nn.ModuleList(fold.classifier.objective for fold in folds)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Classify a batch of any size."""
        logits, embeddings = [], []
        for fold in self._folds:
            embedding = fold.classifier.embeddings(fold.augmentation.evaluate(pixels))
            logits.append(fold.classifier.logits(embedding))
            embeddings.append(F.normalize(embedding, dim=-1))
        if len(self._folds) == 1:
            return logits[0].softmax(dim=1), logits[0], embeddings[0]
        count = len(self._folds)
        together = torch.stack([one.log_softmax(dim=1) for one in logits]).logsumexp(dim=0)
        mean = together - math.log(count)
        return mean.exp(), mean, torch.cat(embeddings, dim=1) / count**0.5


@dataclass(frozen=True)
class LinearHead:
    """What a fold predicts by, as one linear layer: logits = x · weightᵀ + bias.

    weight: [C, D]. bias: [C]. on: what x is, the embedding as it is or at length 1.
    """

    weight: Tensor
    bias: Tensor
    on: HeadInput


@torch.no_grad()
def linear_head(classifier: Classifier) -> LinearHead | None:
    """Find the linear layer that a classifier comes down to; None where it is no such layer.

    Scaled cosines to texts or proxies are one on the unit embedding, linear classifiers on the
    embedding itself. The layer is read off at the axes and tried on random embeddings.
    """
    size = classifier.model.embed_dim
    axes = torch.eye(size)
    logits = [
        torch.cat([classifier.logits(sign * some) for some in torch.split(axes, ROWS_AT_ONCE)])
        for sign in (1, -1)
    ]
    bias = (logits[0] + logits[1])[0] / 2
    weight = ((logits[0] - logits[1]) / 2).T.contiguous()
    generator = torch.Generator().manual_seed(0)
    tried = 3 * torch.randn(ROWS_AT_ONCE, size, generator=generator)
    wanted = classifier.logits(tried)
    kinds: tuple[tuple[HeadInput, Tensor], ...] = (
        ("unit embedding", F.normalize(tried, dim=-1)),
        ("embedding", tried),
    )
    for on, rows in kinds:
        error = (F.linear(rows, weight, bias) - wanted).abs().max()
        if error <= LARGEST_ERROR * wanted.abs().max():
            return LinearHead(weight, bias, on)
    return None
