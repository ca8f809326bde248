"""SuperCLIP in its published form: image features also predict the tokens of their text.

Legend: B batch, D embedding size, V vocabulary, L tokens per text.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clip_pkg.losses.functional.image_text import clip
from clip_pkg.losses.functional.numerics import full_precision, logsumexp, masked_mean


class TokenTerms(NamedTuple):
    """Loss, a scalar, and the running state for the next batch."""

    class_loss: Tensor
    cap_fq_out: Tensor
    num_samples_out: Tensor


@full_precision
def token_classification(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    cap_fq_in: Tensor,
    num_samples_in: Tensor,
) -> TokenTerms:
    """Classify each image over its text's tokens, rare tokens weighing more.

    The share of the batch's texts that hold a token is added to f, and 1 to n, before use. Token v
    weighs w_v = log((n + 1/B)/(f_v + 1/B)); the target t_i of a text is w over its distinct
    tokens, scaled to sum 1 (all zero when every token is in every text so far);
    class = 1/B · Σ_i −t_i·log_softmax(z_i).
    Zhao et al. 2025, "SuperCLIP: CLIP with Simple Classification Supervision", section 3.

    Args:
        logits: [B, V] of the images over the vocabulary.
        labels: [B, L] int64 token ids; negative ones are padding, any other id is a token.
        mask: [B] bool, texts that count (the logits of the others must be finite); None for all.
        cap_fq_in: [1, V], f before this batch; zeros at the start.
        num_samples_in: [1, 1], n before this batch; zero at the start.

    Returns:
        The loss and the new state. Loss 0 and the old state if no text counts.
    """
    counted = torch.ones_like(labels[:, 0], dtype=torch.bool) if mask is None else mask
    tokens = labels.sort(dim=1).values
    first = torch.ones_like(tokens[:, :1], dtype=torch.bool)
    is_new = torch.cat([first, tokens[:, 1:] != tokens[:, :-1]], dim=1)
    counts_once = is_new & (tokens >= 0) & counted[:, None]
    tokens = tokens.clamp(min=0)
    total = counted.sum().to(num_samples_in.dtype)
    batch = total.clamp(min=1)
    share = counts_once.to(cap_fq_in.dtype).flatten() / batch
    frequency = cap_fq_in.flatten().scatter_add(0, tokens.flatten(), share)[None, :]
    count = num_samples_in + (total > 0)

    weights = torch.log((count + 1 / batch) / (frequency + 1 / batch)).flatten().to(logits.dtype)
    target = torch.where(counts_once, weights[tokens], 0.0)
    target = target / target.sum(dim=1, keepdim=True).clamp(min=1e-12)
    # Only the L tokens of a text have a target: the rest of [B, V] is needed for the lse alone.
    log_norm = logsumexp(logits, dim=1) * target.sum(dim=1)
    losses = log_norm - (target * logits.gather(1, tokens)).sum(dim=1)
    return TokenTerms(masked_mean(losses, mask), frequency, count)


@full_precision
def superclip(
    logits: Tensor,
    labels: Tensor,
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    *,
    cap_fq_in: Tensor,
    num_samples_in: Tensor,
    normalize_inputs: bool = True,
) -> Tensor:
    """`token_classification` plus `clip`, with the arguments of both; the new state is dropped."""
    tokens = token_classification(
        logits, labels, cap_fq_in=cap_fq_in, num_samples_in=num_samples_in
    )
    return tokens.class_loss + clip(image, text, logit_scale, normalize_inputs=normalize_inputs)
