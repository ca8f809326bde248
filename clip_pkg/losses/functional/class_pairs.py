"""Each image with its class's text against texts of other classes, as softmax or as yes and no.

Legend: B batch, C classes; z_ic is the cosine of image i and class c's text divided by the
temperature, m_c how often c's text is among the negatives. A text of an image's own class is never
its negative. `mask` [B] says which images count; the others, which must be finite all the same, get
a gradient of exactly 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clip_pkg.losses.functional.log_sums import log1p_exp, lowest, masked_logsumexp
from clip_pkg.losses.functional.masking import masked_mean
from clip_pkg.losses.functional.precision import full_precision


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
    the negatives are the texts of the batch.

    Args:
        class_logits: [B, C], z.
        targets: [B] int64 in 0…C−1.
        negatives: [C], m ≥ 0.
        mask: [B] bool, or None for all.

    Returns:
        Scalar; 0 when no image counts, and for an image without a negative.
    """
    own, negatives = targets[:, None], negatives.to(class_logits)
    # The lowest number in the place of log 0 takes a text out of the sum, with gradient 0.
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

    Args:
        class_logits: [B, C], z.
        targets: [B] int64 in 0…C−1.
        negatives: [C], m ≥ 0.
        mask: [B] bool, or None for all.

    Returns:
        Scalar; 0 when no image counts.
    """
    own, counts = _pairs(class_logits, targets, negatives, mask)
    against = (counts * log1p_exp(class_logits)).sum() / counts.sum().clamp(min=1)
    return masked_mean(log1p_exp(-own), mask) + against


@torch.no_grad()
@full_precision
def pair_statistics(
    class_logits: Tensor, targets: Tensor, negatives: Tensor, mask: Tensor | None = None
) -> PairStatistics:
    """Describe the logits z that `class_text_info_nce` and `class_text_bce` are about; as there."""
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
