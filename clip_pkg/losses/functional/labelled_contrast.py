"""Contrastive losses in which samples of one label are positives of each other.

Legend: B batch, D embedding size, T > 0 temperature; P(i) are the others with the label of i, and
z are cosines/T. Embeddings are [B, D] and L2-normalised here; labels are [B] int64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clip_pkg.losses.functional.numerics import (
    full_precision,
    log1p_exp,
    logsumexp,
    lowest,
    masked_logsumexp,
    unit,
    without_diagonal,
)


@full_precision
def supcon(
    embeddings: Tensor, labels: Tensor, mask: Tensor | None = None, *, temperature: float = 0.1
) -> Tensor:
    """Supervised contrastive loss, mean over the anchors that have a positive.

    ℓ_i = lse_{a≠i} z_ia − 1/|P(i)| · Σ_{p∈P(i)} z_ip.
    Khosla et al. 2020, "Supervised Contrastive Learning", equation 2. The loss is 0 if no sample
    has a positive, or, unlike the formula and `supcon_mean_over_batch`, if none has a negative.

    Several views are concatenated. mask: [B] bool, samples that count, as anchors and for others.
    """
    losses, has_positive, has_negative = _per_anchor(embeddings, labels, mask, temperature)
    mean = losses.sum() / has_positive.sum().clamp(min=1)
    return torch.where(has_negative, mean, 0.0)


@full_precision
def supcon_mean_over_batch(
    embeddings: Tensor, labels: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """`supcon` as a mean over all B; anchors without a positive count as 0."""
    losses, _, _ = _per_anchor(embeddings, labels, None, temperature)
    return losses.mean()


@full_precision
def nt_xent_labels(embeddings: Tensor, labels: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Mean over all ordered positive pairs (i, p) of −log(e^{z_ip} / (e^{z_ip} + Σ_n e^{z_in})).

    The n are the samples with another label than i: NT-Xent (Chen et al. 2020, equation 1) with
    positives given by labels and none of the other positives in the denominator; 0 without a pair.
    """
    logits, same = _similarities(embeddings, labels, temperature)
    negatives = masked_logsumexp(logits, ~same, dim=1)
    positive = same.fill_diagonal_(False)
    losses = torch.where(positive, log1p_exp(negatives[:, None] - logits), 0.0)
    return losses.sum() / positive.sum().clamp(min=1)


def _per_anchor(
    embeddings: Tensor, labels: Tensor, mask: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each anchor, [B], 0 without a positive; whether it has one, [B]; any negative, []."""
    logits, same = _similarities(embeddings, labels, temperature)
    others = without_diagonal(logits)
    if mask is not None:
        pairs = mask[:, None] & mask[None, :]
        others = others.masked_fill(~pairs, lowest(others))
        same = same & pairs
        has_negative = (pairs & (labels[:, None] != labels[None, :])).any()
    else:
        has_negative = (labels != labels[0]).any()
    log_norm = logsumexp(others, dim=1)
    positive = same.fill_diagonal_(False)
    count = positive.sum(dim=1)
    mean_positive = torch.where(positive, logits, 0.0).sum(dim=1) / count.clamp(min=1)
    return torch.where(count > 0, log_norm - mean_positive, 0.0), count > 0, has_negative


def _similarities(embeddings: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cosines/T, [B, B], and whether two samples have the same label, [B, B]."""
    x = unit(embeddings)
    return (x / temperature) @ x.T, labels[:, None] == labels[None, :]
