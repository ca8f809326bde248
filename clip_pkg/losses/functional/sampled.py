"""Losses of one positive against negatives that were drawn for it.

Legend: B batch, C classes, … any leading dimensions (positions), D embedding size, N negatives
shared by all positions, T > 0 temperature. Anchors and positives are […, D], negatives [N, D]; they
are L2-normalised here. `mask` […] bool selects the positions that count; the others get a gradient
of exactly 0. If none counts, the loss is 0.

Losses of class texts take `class_logits` z [B, C], `targets` y [B] int64 in 0…C−1, and how often
each class's text is among the `negatives`, m ≥ 0 [C]; their positions are the images [B].
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from clip_pkg.losses.functional.numerics import (
    full_precision,
    log1p_exp,
    logsumexp,
    lowest,
    masked_logsumexp,
    masked_mean,
    unit,
)


class PairStatistics(NamedTuple):
    """Mean and standard deviation of the logits of a batch's pairs, scalars; 0 without a pair."""

    positive_mean: Tensor
    positive_std: Tensor
    negative_mean: Tensor
    negative_std: Tensor


@full_precision
def class_text_info_nce(
    class_logits: Tensor, targets: Tensor, negatives: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`sampled_softmax_collision_masked` where positives and negatives are class texts.

    1/B · Σ_i log(1 + Σ_{c ≠ y_i} m_c·e^{z_ic − z_iy}). With m_c the images of class c in the batch
    the negatives are the texts of the batch. An image without a negative costs 0.
    """
    own, negatives = targets[:, None], negatives.to(class_logits)
    # The lowest number instead of log 0 removes a text from the sum, with gradient 0.
    log_counts = torch.where(negatives > 0, negatives.log(), lowest(class_logits))
    is_other = torch.ones_like(class_logits, dtype=torch.bool).scatter(1, own, False)
    against = masked_logsumexp(class_logits + log_counts, is_other, dim=1)
    return masked_mean(log1p_exp(against - class_logits.gather(1, own)[:, 0]), mask)


@full_precision
def class_text_bce(
    class_logits: Tensor, targets: Tensor, negatives: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`bce_pos_neg` on the pairs of `class_text_info_nce`: a mean over each of the two kinds.

    1/B · Σ_i log(1 + e^{−z_iy}) + 1/M · Σ_i Σ_{c ≠ y_i} m_c·log(1 + e^{z_ic}) with
    M = Σ_i Σ_{c ≠ y_i} m_c.
    """
    own, counts = _pairs(class_logits, targets, negatives, mask)
    against = (counts * log1p_exp(class_logits)).sum() / counts.sum().clamp(min=1)
    return masked_mean(log1p_exp(-own), mask) + against


@torch.no_grad()
@full_precision
def pair_statistics(
    class_logits: Tensor, targets: Tensor, negatives: Tensor, mask: Tensor | None = None
) -> PairStatistics:
    """Statistics of the pairs of `class_text_info_nce` and `class_text_bce`."""
    own, counts = _pairs(class_logits, targets, negatives, mask)
    counted = torch.ones_like(own) if mask is None else mask.to(own)
    return PairStatistics(*_mean_and_std(own, counted), *_mean_and_std(class_logits, counts))


def _pairs(
    class_logits: Tensor, targets: Tensor, negatives: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Logit of each image's own text, [B]; how often each pair is a negative one, [B, C]."""
    own = targets[:, None]
    counts = negatives.to(class_logits).expand_as(class_logits).scatter(1, own, 0.0)
    if mask is not None:
        counts = torch.where(mask[:, None], counts, 0.0)
    return class_logits.gather(1, own)[:, 0], counts


def _mean_and_std(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    total = counts.sum().clamp(min=1)
    mean = (counts * values).sum() / total
    return mean, ((counts * (values - mean).square()).sum() / total).sqrt()


@full_precision
def info_nce_sampled_negatives(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 0.1,
) -> Tensor:
    """Softmax over the logits [a·p, a·n_1, …, a·n_N]/T with the positive as target.

    ℓ = log(1 + Σ_k e^{(a·n_k − a·p)/T}), mean over the positions that count. van den Oord et al.
    2018, "Representation Learning with Contrastive Predictive Coding", equation 4, with negatives
    from outside the batch.
    """
    positive, negative = _sampled_logits(anchors, positives, negatives, mask, temperature)
    return masked_mean(log1p_exp(logsumexp(negative, dim=-1) - positive), mask)


@full_precision
def sampled_softmax_collision_masked(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    mask: Tensor | None = None,
    *,
    pos_ids: Tensor,
    neg_ids: Tensor,
    temperature: float = 0.05,
    masked_logit: float = -5e4,
) -> Tensor:
    """`info_nce_sampled_negatives` without the drawn negatives that equal the positive.

    Zhai et al. 2024, "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers
    for Generative Recommendations", sampled softmax of the published code.

    pos_ids […], neg_ids [N]: int64; a negative whose id is that of the positive gets `masked_logit`
    as its logit, after the division by T.
    """
    positive, negative = _sampled_logits(anchors, positives, negatives, mask, temperature)
    collides = neg_ids == pos_ids[..., None]
    negative = negative.masked_fill(collides, masked_logit)
    return masked_mean(log1p_exp(logsumexp(negative, dim=-1) - positive), mask)


@full_precision
def bce_pos_neg(
    pos_logits: Tensor,
    neg_logits: Tensor,
    mask: Tensor | None = None,
    *,
    combine: Literal["sum_of_means", "mean_of_means"] = "sum_of_means",
) -> Tensor:
    """Binary cross-entropy of positives (as 1) and negatives (as 0), each a masked mean.

    mean log(1 + e^{−z⁺}) + mean log(1 + e^{z⁻}), or half of it; logits are […]. Kang and McAuley
    2018, "Self-Attentive Sequential Recommendation", the training objective.
    """
    if combine not in ("sum_of_means", "mean_of_means"):
        raise ValueError(f"combine is sum_of_means or mean_of_means, not {combine!r}")
    if mask is not None:
        pos_logits, neg_logits = (z.masked_fill(~mask, 0.0) for z in (pos_logits, neg_logits))
    total = masked_mean(log1p_exp(-pos_logits) + log1p_exp(neg_logits), mask)
    return total if combine == "sum_of_means" else 0.5 * total


def _sampled_logits(
    anchors: Tensor, positives: Tensor, negatives: Tensor, mask: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """Logits of the positives, […], and of the negatives, […, N]."""
    if mask is not None:
        # No value of a position that does not count, even NaN, may reach the others.
        anchors = anchors.masked_fill(~mask[..., None], 0.0)
        positives = positives.masked_fill(~mask[..., None], 0.0)
    a = unit(anchors) / temperature
    return (a * unit(positives)).sum(dim=-1), a @ unit(negatives).T
