"""Losses of one positive against negatives that were drawn for it.

Legend: … any leading dimensions (positions), D embedding size, N negatives shared by all positions,
T temperature. `mask` says which positions count; the others get a gradient of exactly 0.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from clip_pkg.losses.functional.log_sums import log1p_exp, logsumexp
from clip_pkg.losses.functional.masking import masked_mean
from clip_pkg.losses.functional.normalization import unit
from clip_pkg.losses.functional.precision import full_precision


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

    Args:
        anchors: […, D]; L2-normalised here.
        positives: […, D]; L2-normalised here.
        negatives: [N, D]; L2-normalised here.
        mask: […] bool, or None for all.
        temperature: T > 0.

    Returns:
        Scalar; 0 when no position counts.
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
    """`info_nce_sampled_negatives` in which a drawn negative that is the positive does not count.

    Zhai et al. 2024, "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers
    for Generative Recommendations", sampled softmax of the published code.

    Args:
        anchors: […, D]; L2-normalised here.
        positives: […, D]; L2-normalised here.
        negatives: [N, D]; L2-normalised here.
        mask: […] bool, or None for all.
        pos_ids: […] int64, what each positive is.
        neg_ids: [N] int64, what each negative is.
        temperature: T > 0.
        masked_logit: takes the place of a colliding negative's logit, after the division by T.

    Returns:
        Scalar; 0 when no position counts.
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

    mean log(1 + e^{−z⁺}) + mean log(1 + e^{z⁻}), or half of it. Kang and McAuley 2018,
    "Self-Attentive Sequential Recommendation", the training objective.

    Args:
        pos_logits: […].
        neg_logits: […], of the same shape.
        mask: […] bool, or None for all.
        combine: sum of the two means, or their mean.

    Returns:
        Scalar; 0 when no position counts.
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
        # Whatever a position that does not count holds, NaN too, must not reach the others.
        anchors = anchors.masked_fill(~mask[..., None], 0.0)
        positives = positives.masked_fill(~mask[..., None], 0.0)
    a = unit(anchors) / temperature
    return (a * unit(positives)).sum(dim=-1), a @ unit(negatives).T
