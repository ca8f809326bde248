"""Losses of class logits.

Legend: B batch, C classes. Logits are [B, C]. Labels are classes, [B] int64 in 0…C−1, or shares of
the classes, [B, C] with rows that sum to 1 (mixed or smoothed labels). Class weights w ≥ 0 are [C].
`mask` [B] bool selects the samples that count; the others must be finite and get a gradient of
exactly 0. If none counts, or all weights in the batch are 0, the loss is 0.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.losses.functional.numerics import full_precision, widest_float

Reduction = Literal["weighted_mean", "sum_over_batch_size"]


@full_precision
def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    reduction: Reduction = "weighted_mean",
) -> Tensor:
    """Cross-entropy of the softmax over classes.

    1/B · Σ_i [lse_c z_ic − Σ_c q_ic z_ic], where q is one-hot, or (1 − ε)·one-hot + ε/C under label
    smoothing ε in [0, 1] (Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7).
    Without class weights both reductions are the mean over B.
    """
    return _reduced(logits, labels, None, mask, label_smoothing, reduction=reduction)


@full_precision
def weighted_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    class_counts: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    smooth: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: Reduction = "weighted_mean",
) -> Tensor:
    """Cross-entropy in which a sample of class y counts w_y times.

    `weighted_mean`: Σ_i w_{y_i}·ℓ_i / Σ_i w_{y_i}; `sum_over_batch_size`: Σ_i w_{y_i}·ℓ_i / B.
    Label smoothing weighs each class's share of the smoothed target by that class's weight. So do
    shares q_ic as labels: w_y·ℓ is then Σ_c w_c·q_ic·(−log p_ic), and w_y is Σ_c w_c·q_ic.

    Without `class_weights`, w_c = N / (C·(n_c + smooth)) of the `class_counts` n_c [C], N = Σ n_c;
    0 where that would divide by zero: a class without images cannot be a target, and an infinite
    weight would turn label smoothing into NaN.

    Raises:
        ValueError: neither weights nor counts are given.
    """
    if class_weights is None:
        if class_counts is None:
            raise ValueError("weighted_cross_entropy needs class_weights or class_counts")
        counts = class_counts.to(widest_float(class_counts.device))
        divisor = counts.numel() * (counts + smooth)
        class_weights = torch.where(divisor > 0, counts.sum() / divisor.clamp(min=1e-300), 0.0)
    return _reduced(
        logits, labels, class_weights.to(logits), mask, label_smoothing, reduction=reduction
    )


def _reduced(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    mask: Tensor | None,
    label_smoothing: float,
    *,
    reduction: Reduction,
) -> Tensor:
    if reduction not in ("weighted_mean", "sum_over_batch_size"):
        raise ValueError(f"reduction is weighted_mean or sum_over_batch_size, not {reduction!r}")
    if labels.ndim == 2:
        labels = labels.to(logits)
    if weights is None and mask is None:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    losses = F.cross_entropy(
        logits, labels, weights, reduction="none", label_smoothing=label_smoothing
    )
    if weights is None or reduction == "sum_over_batch_size":
        return _weighted_mean(losses, torch.ones_like(losses), mask)
    return _weighted_mean(losses, _sample_weights(labels, weights), mask)


def _sample_weights(labels: Tensor, weights: Tensor) -> Tensor:
    """w_y of each sample, [B]."""
    return labels @ weights if labels.ndim == 2 else weights[labels]


def _weighted_mean(losses: Tensor, weights: Tensor, mask: Tensor | None) -> Tensor:
    """Σ losses / Σ weights over the samples that count; the losses, [B], are weighted already."""
    if mask is not None:
        losses, weights = (torch.where(mask, values, 0.0) for values in (losses, weights))
    # The clamp makes a batch in which all weights are 0 cost 0 instead of 0/0.
    return losses.sum() / weights.sum().clamp(min=torch.finfo(losses.dtype).tiny)


@full_precision
def focal(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Tensor:
    """Focal loss: Σ_i w_{y_i}·α·(1 − p_i)^γ·(−log p_i) / Σ_i w_{y_i}, p_i the target's probability.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5, for a softmax. γ = 0,
    α = 1 is (weighted) cross-entropy. With shares q_ic as labels, a sample's term is
    Σ_c w_c·q_ic·α·(1 − p_ic)^γ·(−log p_ic) and its weight Σ_c w_c·q_ic.

    class_weights: None for all 1. gamma: focusing power, γ ≥ 0. alpha: constant factor; None is 1.
    """
    weights = None if class_weights is None else class_weights.to(logits)
    if labels.ndim == 2:
        labels = labels.to(logits)
        shares = labels if weights is None else labels * weights
        losses = (shares * _focal_terms(F.log_softmax(logits, dim=1), gamma)).sum(dim=1)
    else:
        losses = _focal_terms(-F.cross_entropy(logits, labels, reduction="none"), gamma)
        losses = losses if weights is None else weights[labels] * losses
    if alpha is not None:
        losses = alpha * losses
    if weights is None:
        return _weighted_mean(losses, torch.ones_like(losses), mask)
    return _weighted_mean(losses, _sample_weights(labels, weights), mask)


def _focal_terms(log_p: Tensor, gamma: float) -> Tensor:
    """(1 − p)^γ·(−log p) of log-probabilities of any shape."""
    if gamma == 0:
        return -log_p
    # −expm1 keeps 1 − p exact near p = 1; the floor keeps the power's slope finite for γ < 1.
    miss = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    return miss**gamma * -log_p
