"""Contrastive losses between images and texts.

Legend: B batch, C classes, D embedding size. `image` and `text` are [B, D], the i-th text belongs
to the i-th image, and `normalize_inputs` L2-normalises both first; `logit_scale` is s = 1/T, a
scalar, already exponentiated.

Losses of class texts take `class_logits` [B, C], s·cos of image i and the text of class c, and
`targets` [B] int64 in 0…C−1; classes may be absent from the batch. `mask` [B] bool selects the
images that count; the others must be finite, get a gradient of exactly 0 and are negatives of no
image. If none counts, the loss is 0.
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
)


@full_precision
def clip(
    image: Tensor, text: Tensor, logit_scale: Tensor | float, *, normalize_inputs: bool = True
) -> Tensor:
    """Symmetric contrastive loss.

    With z = s·I·Tᵀ: 1/(2B) · Σ_i [(lse_j z_ij − z_ii) + (lse_j z_ji − z_ii)].
    Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
    figure 3.
    """
    logits = _similarities(image, text, logit_scale, normalize_inputs)
    log_norm = 0.5 * (logsumexp(logits, dim=1) + logsumexp(logits, dim=0))
    return (log_norm - logits.diagonal()).mean()


@full_precision
def multi_positive_clip(
    image: Tensor,
    text: Tensor,
    labels: Tensor,
    logit_scale: Tensor | float,
    *,
    normalize_inputs: bool = True,
) -> Tensor:
    """As `clip`, but every pair of one label matches: the target of a row is uniform over them.

    1/(2B) · Σ_i [(lse_j z_ij − mean_{j: y_j = y_i} z_ij) + the same of zᵀ]. Equals `clip` when all
    labels differ. Yang et al. 2022, "Unified Contrastive Learning in Image-Text-Label Space",
    section 3, the bidirectional loss; Tian et al. 2023, "StableRep", section 3, the multi-positive
    loss, here between images and texts. labels: [B] int64.
    """
    logits = _similarities(image, text, logit_scale, normalize_inputs)
    same = labels[:, None] == labels[None, :]
    log_norm = 0.5 * (logsumexp(logits, dim=1) + logsumexp(logits, dim=0))
    # Row i and column i hold equally many matches, so the targets serve both directions at once.
    matched = torch.where(same, logits, 0.0).sum(dim=1) / same.sum(dim=1)
    return (log_norm - matched).mean()


@full_precision
def class_text_clip(class_logits: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """`multi_positive_clip` and `clip` of a batch whose texts are its classes' texts.

    Images of one class then share one text, so the [B, B] logits only repeat columns of the [B, C]
    ones, which are enough (n_c: images of class c in the batch):

    1/(2B) · [Σ_i lse_c(z_ic + log n_c) + Σ_c n_c·lse_i z_ic − 2·Σ_i z_{i,y_i}].

    Both conventions of what matches give this same value and gradient: they distribute the same
    total of target mass over columns that are equal, and cross-entropy is linear in its targets.
    """
    counts = counts_in_batch(class_logits, targets, mask)
    own = class_logits.gather(1, targets[:, None])[:, 0]
    # The lowest number instead of log 0 removes an absent class from the sum, with gradient 0.
    log_counts = torch.where(counts > 0, counts.log(), lowest(counts))
    to_text = torch.logsumexp(class_logits + log_counts, dim=1)
    if mask is None:
        to_image = (counts * torch.logsumexp(class_logits, dim=0)).sum() / len(own)
        return 0.5 * (to_text.mean() + to_image) - own.mean()
    batch = counts.sum().clamp(min=1)
    to_image = (counts * masked_logsumexp(class_logits, mask[:, None], dim=0)).sum() / batch
    return 0.5 * to_image + torch.where(mask, 0.5 * to_text - own, 0.0).sum() / batch


def counts_in_batch(class_logits: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
    """Number of images of each class that count: [C], of the type of `class_logits`."""
    is_target = targets[:, None] == torch.arange(class_logits.shape[1], device=targets.device)
    if mask is not None:
        is_target = is_target & mask[:, None]
    return is_target.sum(dim=0, dtype=class_logits.dtype)


@full_precision
def siglip(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    normalize_inputs: bool = True,
) -> Tensor:
    """Sigmoid loss: a binary decision for every pair.

    −1/B · Σ_ij log σ(z_ij·(s·I_i·T_j + b)), z = 1 on the diagonal and −1 elsewhere; the sum over
    B² pairs is divided by B. Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training",
    algorithm 1.
    """
    logits = _similarities(image, text, logit_scale, normalize_inputs) + logit_bias
    against = torch.diagonal_scatter(logits, -logits.diagonal())
    return log1p_exp(against).sum() / logits.shape[0]


@full_precision
def class_text_siglip(class_logits: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """`siglip` of a batch whose texts are its classes' texts, with the bias in `class_logits`.

    Equal texts make equal columns of the [B, B] logits, so with n_c images of class c in the batch

    −1/B · Σ_i Σ_c n_c · log σ(z_ic·ẑ_ic), ẑ_ic = 1 for the image's own class and −1 for others.

    Equals `siglip` when all classes of the batch differ.
    """
    counts = counts_in_batch(class_logits, targets, mask)
    own = class_logits.gather(1, targets[:, None])
    against = class_logits.scatter(1, targets[:, None], -own)
    per_image = (counts * log1p_exp(against)).sum(dim=1)
    if mask is None:
        return per_image.mean()
    return torch.where(mask, per_image, 0.0).sum() / counts.sum().clamp(min=1)


def _similarities(
    image: Tensor, text: Tensor, logit_scale: Tensor | float, normalize_inputs: bool
) -> Tensor:
    """[B, B]; row: image, column: text."""
    if normalize_inputs:
        image, text = unit(image), unit(text)
    # Scaling [B, D] is cheaper than scaling [B, B].
    return (logit_scale * image) @ text.T
