"""Contrastive losses between two views of the same samples, without labels.

Legend: B batch, D embedding size, T temperature; a and b are the L2-normalised views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clip_pkg.losses.functional.log_sums import logsumexp, without_diagonal
from clip_pkg.losses.functional.normalization import two_views, unit
from clip_pkg.losses.functional.precision import full_precision


@full_precision
def info_nce(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float = 0.1,
) -> Tensor:
    """Each query picks its own positive among the batch's, and among further negatives.

    1/B · Σ_i [lse_j z_ij − z_ii], z = a·[b; n]ᵀ/T. van den Oord et al. 2018, "Representation
    Learning with Contrastive Predictive Coding", equation 4; negatives from a queue: He et al.
    2020, "Momentum Contrast for Unsupervised Visual Representation Learning", equation 1.

    Args:
        query: [B, D]; L2-normalised here.
        positive: [B, D]; L2-normalised here.
        negatives: [K, D], nobody's positives; L2-normalised here.
        temperature: T > 0.

    Returns:
        Scalar.
    """
    a, b = two_views(query, positive)
    others = b if negatives is None else torch.cat([b, unit(negatives)])
    logits = (a / temperature) @ others.T
    return (logsumexp(logits, dim=1) - logits.diagonal()).mean()


@full_precision
def nt_xent(out0: Tensor, out1: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Each of the 2B views picks its partner among the 2B − 1 others; mean over 2B.

    Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
    equation 1.

    Args:
        out0: [B, D]; L2-normalised here.
        out1: [B, D]; L2-normalised here.
        temperature: T > 0.

    Returns:
        Scalar.
    """
    a, b = two_views(out0, out1)
    scaled_a = a / temperature
    across = scaled_a @ b.T
    within_a = without_diagonal(scaled_a @ a.T)
    within_b = without_diagonal((b / temperature) @ b.T)
    # The fourth block of the [2B, 2B] matrix is `across` transposed.
    of_a = torch.logaddexp(logsumexp(within_a, dim=1), logsumexp(across, dim=1))
    of_b = torch.logaddexp(logsumexp(within_b, dim=1), logsumexp(across, dim=0))
    return (0.5 * (of_a + of_b) - across.diagonal()).mean()


@full_precision
def dcl_symmetric(out0: Tensor, out1: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Decoupled contrastive loss, mean over both directions of `dcl_oneway`.

    Args:
        out0: [B, D], B ≥ 2; L2-normalised here.
        out1: [B, D]; L2-normalised here.
        temperature: T > 0.

    Returns:
        Scalar.
    """
    return _decoupled(out0, out1, temperature, both_ways=True)


@full_precision
def dcl_oneway(out0: Tensor, out1: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Decoupled contrastive loss: the positive is no part of the denominator.

    1/B · Σ_i [−a_i·b_i/T + lse over the 2(B−1) negatives a_i·a_j/T and a_i·b_j/T, j ≠ i].
    Yeh et al. 2022, "Decoupled Contrastive Learning", section 3, the loss DC.

    Args:
        out0: [B, D], B ≥ 2; L2-normalised here.
        out1: [B, D]; L2-normalised here.
        temperature: T > 0.

    Returns:
        Scalar.
    """
    return _decoupled(out0, out1, temperature, both_ways=False)


@full_precision
def dclw_symmetric(
    out0: Tensor, out1: Tensor, *, temperature: float = 0.1, sigma: float = 0.5
) -> Tensor:
    """Weighted decoupled loss, mean over both directions of `dclw_oneway`.

    Args:
        out0: [B, D], B ≥ 2; L2-normalised here.
        out1: [B, D]; L2-normalised here.
        temperature: T > 0.
        sigma: σ > 0.

    Returns:
        Scalar.
    """
    return _decoupled(out0, out1, temperature, both_ways=True, sigma=sigma)


@full_precision
def dclw_oneway(
    out0: Tensor, out1: Tensor, *, temperature: float = 0.1, sigma: float = 0.5
) -> Tensor:
    """`dcl_oneway` whose positive term is weighted by w_i = 2 − B·softmax_i(a_i·b_i/σ).

    The weights are constants for the gradient. Yeh et al. 2022, "Decoupled Contrastive Learning",
    section 3, the loss DCW with the negative von Mises–Fisher weight.

    Args:
        out0: [B, D], B ≥ 2; L2-normalised here.
        out1: [B, D]; L2-normalised here.
        temperature: T > 0.
        sigma: σ > 0.

    Returns:
        Scalar.
    """
    return _decoupled(out0, out1, temperature, both_ways=False, sigma=sigma)


@full_precision
def dclw_oneway_undetached(
    out0: Tensor, out1: Tensor, *, temperature: float = 0.1, sigma: float = 0.5
) -> Tensor:
    """`dclw_oneway` with the gradient also passing through the weights: the same value.

    Args:
        out0: [B, D], B ≥ 2; L2-normalised here.
        out1: [B, D]; L2-normalised here.
        temperature: T > 0.
        sigma: σ > 0.

    Returns:
        Scalar.
    """
    return _decoupled(out0, out1, temperature, both_ways=False, sigma=sigma, detach=False)


def _decoupled(
    out0: Tensor,
    out1: Tensor,
    temperature: float,
    *,
    both_ways: bool,
    sigma: float | None = None,
    detach: bool = True,
) -> Tensor:
    a, b = two_views(out0, out1, smallest_batch=2)
    scaled_a = a / temperature
    across = scaled_a @ b.T
    positive = across.diagonal().clone()
    across = without_diagonal(across)
    within_a = without_diagonal(scaled_a @ a.T)
    negatives = torch.logaddexp(logsumexp(within_a, dim=1), logsumexp(across, dim=1))
    if both_ways:
        within_b = without_diagonal((b / temperature) @ b.T)
        of_b = torch.logaddexp(logsumexp(within_b, dim=1), logsumexp(across, dim=0))
        negatives = 0.5 * (negatives + of_b)
    if sigma is not None:
        weight = 2 - len(positive) * torch.softmax(positive * (temperature / sigma), dim=0)
        positive = (weight.detach() if detach else weight) * positive
    return (negatives - positive).mean()


@full_precision
def dhel(
    anchor: Tensor, positive: Tensor, *, tau: float = 0.3, include_augs: bool = False
) -> Tensor:
    """Decoupled hyperspherical energy: alignment across the views, uniformity within each.

    1/B · Σ_i [−a_i·b_i/τ + lse_{j≠i} a_i·a_j/τ], and with `include_augs` also
    + lse_{j≠i} b_i·b_j/τ. Koromilas et al. 2024, "Bridging Mini-Batch and Asymptotic Analysis in
    Contrastive Learning: From InfoNCE to Kernel-Based Losses", the loss DHEL.

    Args:
        anchor: [B, D], B ≥ 2; L2-normalised here.
        positive: [B, D]; L2-normalised here.
        tau: τ > 0.
        include_augs: count the uniformity of the second view as well.

    Returns:
        Scalar.
    """
    a, b = two_views(anchor, positive, smallest_batch=2)
    alignment = (a * b).sum(dim=1) / tau
    energy = logsumexp(without_diagonal((a / tau) @ a.T), dim=1)
    if include_augs:
        energy = energy + logsumexp(without_diagonal((b / tau) @ b.T), dim=1)
    return (energy - alignment).mean()


@full_precision
def kcl_gaussian(
    anchor: Tensor, positive: Tensor, *, t: float = 2.0, gamma: float = 16.0
) -> Tensor:
    """Kernel contrastive loss with k(x, y) = e^{−t‖x − y‖²}.

    −2·mean_i k(a_i, b_i) + γ·[mean_{i<j} k(a_i, a_j) + mean_{i<j} k(b_i, b_j)].
    Koromilas et al. 2024, "Bridging Mini-Batch and Asymptotic Analysis in Contrastive Learning:
    From InfoNCE to Kernel-Based Losses", the loss KCL.

    Args:
        anchor: [B, D], B ≥ 2; L2-normalised here.
        positive: [B, D]; L2-normalised here.
        t: t > 0.
        gamma: γ ≥ 0.

    Returns:
        Scalar.
    """
    a, b = two_views(anchor, positive, smallest_batch=2)
    alignment = torch.exp(-t * (a - b).square().sum(dim=1)).mean()
    uniformity = _mean_kernel(a, t) + _mean_kernel(b, t)
    return gamma * uniformity - 2 * alignment


def _mean_kernel(x: Tensor, t: float) -> Tensor:
    """Mean of the Gaussian kernel over the pairs of different unit vectors."""
    # ‖x − y‖² = 2 − 2·x·y; what is taken off the diagonal becomes exp(…) = 0.
    exponent = without_diagonal((2 * t * x) @ x.T) - 2 * t
    return exponent.exp().sum() / (len(x) * (len(x) - 1))
