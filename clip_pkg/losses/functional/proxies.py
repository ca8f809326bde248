"""Losses against one learned point per class.

Legend: B batch, C classes, D embedding size. Embeddings are [B, D], proxies and centers [C, D],
labels [B] int64 in 0…C−1; classes may be absent from the batch. `mask` [B] bool selects the
samples that count; the others must be finite and get a gradient of exactly 0. If none counts, the
loss is 0.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.losses.functional.numerics import (
    full_precision,
    log1p_exp,
    masked_logsumexp,
    masked_mean,
    unit,
)


@full_precision
def proxy_anchor(
    embeddings: Tensor,
    proxies: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    alpha: float = 32.0,
    margin: float = 0.1,
) -> Tensor:
    """Pull each proxy to its samples and push it from all others, the hardest most.

    1/|P⁺| · Σ_{c present} log(1 + Σ_{x∈c} e^{−α(cos(x,c) − δ)})
    + 1/C · Σ_c log(1 + Σ_{x∉c} e^{α(cos(x,c) + δ)}).
    Kim et al. 2020, "Proxy Anchor Loss for Deep Metric Learning", equation 4.

    Embeddings and proxies are L2-normalised here. alpha: α > 0. margin: δ ≥ 0.
    """
    return focal_proxy_anchor(
        embeddings, proxies, labels, mask, alpha=alpha, margin=margin, gamma_pos=0, gamma_neg=0
    )


@full_precision
def focal_proxy_anchor(
    embeddings: Tensor,
    proxies: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    alpha: float = 32.0,
    margin: float = 0.1,
    gamma_pos: float = 2.0,
    gamma_neg: float = 2.0,
) -> Tensor:
    """`proxy_anchor` in which a focal factor weighs every pair of a sample and a proxy.

    With z = α(cos(x,c) − δ), u = α(cos(x,c) + δ) and σ the logistic function:

    1/|P⁺| · Σ_{c present} log(1 + Σ_{x∈c} (1 − σ(z))^{γ⁺} · e^{−z})
    + 1/C · Σ_c log(1 + Σ_{x∉c} (1 − σ(−u))^{γ⁻} · e^u).

    σ(z) is how far x is on the right side of the margin of its own proxy, σ(−u) of another's;
    (1 − p)^γ is the factor of Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4,
    and gets a gradient. It approaches 1 for hard pairs and 0 for easy ones; γ⁺ = γ⁻ = 0 is
    `proxy_anchor`. Embeddings and proxies are L2-normalised here.
    """
    classes = proxies.shape[0]
    cosine = unit(embeddings) @ unit(proxies).T
    of_class = labels[:, None] == torch.arange(classes, device=labels.device)
    of_others = ~of_class
    if mask is not None:
        of_class, of_others = of_class & mask[:, None], of_others & mask[:, None]
    far, near = alpha * (margin - cosine), alpha * (cosine + margin)
    # 1 − σ(−x) = 1 / (1 + e^{−x}), so the logarithm of the factor is −γ·log(1 + e^{−x}).
    if gamma_pos != 0:
        far = far - gamma_pos * log1p_exp(-far)
    if gamma_neg != 0:
        near = near - gamma_neg * log1p_exp(-near)
    # A proxy without samples on one side adds log(1 + 0) = 0 there.
    pull = log1p_exp(masked_logsumexp(far, of_class, dim=0))
    push = log1p_exp(masked_logsumexp(near, of_others, dim=0))
    present = of_class.any(dim=0).sum()
    return pull.sum() / present.clamp(min=1) + push.mean()


@full_precision
def center_mean(
    embeddings: Tensor, centers: Tensor, labels: Tensor, mask: Tensor | None = None
) -> Tensor:
    """1/B · Σ_i ‖x_i − c_{y_i}‖², without the factor ½ of `center_half`; nothing is normalised."""
    return masked_mean(_squared_distances(embeddings, centers, labels), mask)


@full_precision
def center_half(
    embeddings: Tensor,
    centers: Tensor,
    labels: Tensor,
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """½ · Σ_i ‖x_i − c_{y_i}‖², or its mean over the batch.

    Wen et al. 2016, "A Discriminative Feature Learning Approach for Deep Face Recognition",
    equation 2, which is the sum; nothing is normalised.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is mean or sum, not {reduction!r}")
    distances = _squared_distances(embeddings, centers, labels)
    return 0.5 * (distances.mean() if reduction == "mean" else distances.sum())


def _squared_distances(embeddings: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    # An embedding lookup sums the gradients of one center in a fixed order.
    return (embeddings - F.embedding(labels, centers)).square().sum(dim=1)
