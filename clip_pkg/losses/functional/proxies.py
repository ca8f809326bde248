"""Losses against one learned point per class.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.losses.functional.log_sums import log1p_exp, masked_logsumexp
from clip_pkg.losses.functional.normalization import unit
from clip_pkg.losses.functional.precision import full_precision


@full_precision
def proxy_anchor(
    embeddings: Tensor,
    proxies: Tensor,
    labels: Tensor,
    *,
    alpha: float = 32.0,
    margin: float = 0.1,
) -> Tensor:
    """Pull each proxy to its samples and push it from all others, the hardest most.

    1/|P⁺| · Σ_{c present} log(1 + Σ_{x∈c} e^{−α(cos(x,c) − δ)})
    + 1/C · Σ_c log(1 + Σ_{x∉c} e^{α(cos(x,c) + δ)}).
    Kim et al. 2020, "Proxy Anchor Loss for Deep Metric Learning", equation 4.

    Args:
        embeddings: [B, D]; L2-normalised here.
        proxies: [C, D]; L2-normalised here.
        labels: [B] int64 in 0…C−1; classes may be absent.
        alpha: α > 0.
        margin: δ ≥ 0.

    Returns:
        Scalar.
    """
    classes = proxies.shape[0]
    cosine = unit(embeddings) @ unit(proxies).T
    of_class = labels[:, None] == torch.arange(classes, device=labels.device)
    # A proxy without samples on one side adds log(1 + 0) = 0 there.
    pull = log1p_exp(masked_logsumexp(-alpha * (cosine - margin), of_class, dim=0))
    push = log1p_exp(masked_logsumexp(alpha * (cosine + margin), ~of_class, dim=0))
    present = of_class.any(dim=0).sum()
    return pull.sum() / present.clamp(min=1) + push.mean()


@full_precision
def center_mean(embeddings: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """1/B · Σ_i ‖x_i − c_{y_i}‖², without the factor ½ of `center_half`.

    Args:
        embeddings: [B, D], not normalised.
        centers: [C, D].
        labels: [B] int64 in 0…C−1.

    Returns:
        Scalar.
    """
    return _squared_distances(embeddings, centers, labels).mean()


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
    equation 2.

    Args:
        embeddings: [B, D], not normalised.
        centers: [C, D].
        labels: [B] int64 in 0…C−1.
        reduction: `sum` is the paper's.

    Returns:
        Scalar.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is mean or sum, not {reduction!r}")
    distances = _squared_distances(embeddings, centers, labels)
    return 0.5 * (distances.mean() if reduction == "mean" else distances.sum())


def _squared_distances(embeddings: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    # An embedding lookup sums the gradients of one center in a fixed order.
    return (embeddings - F.embedding(labels, centers)).square().sum(dim=1)
