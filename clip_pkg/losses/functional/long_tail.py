"""Losses that take the class counts of the training set into account.

Legend: B batch, C classes; n_c training images of class c. Labels are [B] int64 in 0…C−1 or, where
said, shares [B, C]. `mask` [B] bool selects the samples that count; the others must be finite and
get gradient 0. A class without training images counts as one with a single image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clip_pkg.losses.functional.classification import cross_entropy, weighted_cross_entropy
from clip_pkg.losses.functional.numerics import full_precision, widest_float


@full_precision
def adjusted_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    mask: Tensor | None = None,
    *,
    tau: float = 1.0,
) -> Tensor:
    """Cross-entropy of logits [B, C] + τ·log π_c, π_c = n_c / Σ n; labels may be shares [B, C].

    Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10. With τ = 1 it is the
    balanced softmax of Ren et al. 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition",
    equation 4. The logits themselves then predict as if all classes were equally frequent.
    """
    counts = _at_least_one(class_counts)
    return cross_entropy(logits + (tau * (counts / counts.sum()).log()).to(logits), labels, mask)


@full_precision
def ldam(
    cosines: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    mask: Tensor | None = None,
    *,
    max_margin: float = 0.5,
    scale: float = 30.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of s·cosines [B, C] in which the own class's cosine is lowered by its margin.

    The margin of class c is max_margin · (n_min / n_c)^¼, largest for the rarest class; `labels`
    are classes. class_weights: [C], for the deferred re-weighting; the mean is weighted.
    Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
    equations 12 and 13, on the cosines of normalised features and class vectors, as they train it.
    """
    counts = _at_least_one(class_counts)
    margins = (max_margin * (counts.min() / counts) ** 0.25).to(cosines)
    own = torch.arange(cosines.shape[1], device=labels.device) == labels[:, None]
    logits = scale * (cosines - torch.where(own, margins, 0.0))
    if class_weights is None:
        return cross_entropy(logits, labels, mask)
    return weighted_cross_entropy(logits, labels, class_weights.to(logits), mask=mask)


def _at_least_one(class_counts: Tensor) -> Tensor:
    return class_counts.to(widest_float(class_counts.device)).clamp(min=1)
