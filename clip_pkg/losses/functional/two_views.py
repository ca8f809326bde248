"""Contrastive losses between two views of the same samples, without labels.

Legend: B batch, D embedding size, T temperature; a and b are the L2-normalised views. Views are
[B, D] and normalised here, except in VICReg. The decoupled and kernel losses need B ≥ 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.losses.functional.numerics import (
    full_precision,
    logsumexp,
    two_views,
    unit,
    without_diagonal,
)


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

    negatives: [K, D], normalised here, positives of no query. temperature: T > 0.
    """
    a, b = two_views(query, positive)
    others = b if negatives is None else torch.cat([b, unit(negatives)])
    logits = (a / temperature) @ others.T
    return (logsumexp(logits, dim=1) - logits.diagonal()).mean()


@full_precision
def nt_xent(out0: Tensor, out1: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Each of the 2B views picks its partner among the 2B − 1 others; mean over 2B. T > 0.

    Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
    equation 1.
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
def dcl_oneway(out0: Tensor, out1: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Decoupled contrastive loss: the denominator leaves out the positive. T > 0.

    1/B · Σ_i [−a_i·b_i/T + lse over the 2(B−1) negatives a_i·a_j/T and a_i·b_j/T, j ≠ i].
    Yeh et al. 2022, "Decoupled Contrastive Learning", section 3, the loss DC.
    """
    return _decoupled(out0, out1, temperature, both_ways=False)


@full_precision
def dcl_symmetric(out0: Tensor, out1: Tensor, *, temperature: float = 0.1) -> Tensor:
    """`dcl_oneway`, mean over both directions."""
    return _decoupled(out0, out1, temperature, both_ways=True)


@full_precision
def dclw_oneway(
    out0: Tensor, out1: Tensor, *, temperature: float = 0.1, sigma: float = 0.5
) -> Tensor:
    """`dcl_oneway` whose positive term is weighted by w_i = 2 − B·softmax_i(a_i·b_i/σ), σ > 0.

    The weights are constants for the gradient. Yeh et al. 2022, "Decoupled Contrastive Learning",
    section 3, the loss DCW with the negative von Mises–Fisher weight.
    """
    return _decoupled(out0, out1, temperature, both_ways=False, sigma=sigma)


@full_precision
def dclw_symmetric(
    out0: Tensor, out1: Tensor, *, temperature: float = 0.1, sigma: float = 0.5
) -> Tensor:
    """`dclw_oneway`, mean over both directions."""
    return _decoupled(out0, out1, temperature, both_ways=True, sigma=sigma)


@full_precision
def dclw_oneway_undetached(
    out0: Tensor, out1: Tensor, *, temperature: float = 0.1, sigma: float = 0.5
) -> Tensor:
    """`dclw_oneway` with the gradient also passing through the weights: the same value."""
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
    Contrastive Learning: From InfoNCE to Kernel-Based Losses", the loss DHEL. τ > 0.
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
    From InfoNCE to Kernel-Based Losses", the loss KCL. t > 0, γ ≥ 0.
    """
    a, b = two_views(anchor, positive, smallest_batch=2)
    alignment = torch.exp(-t * (a - b).square().sum(dim=1)).mean()
    uniformity = _mean_kernel(a, t) + _mean_kernel(b, t)
    return gamma * uniformity - 2 * alignment


def _mean_kernel(x: Tensor, t: float) -> Tensor:
    """Mean of the Gaussian kernel over the pairs of different unit vectors."""
    # ‖x − y‖² = 2 − 2·x·y; the removed diagonal becomes exp(…) = 0.
    exponent = without_diagonal((2 * t * x) @ x.T) - 2 * t
    return exponent.exp().sum() / (len(x) * (len(x) - 1))


class VicregTerms(NamedTuple):
    """The three terms of VICReg, unweighted, all scalars."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


@full_precision
def vicreg_terms(z_a: Tensor, z_b: Tensor, *, eps: float = 1e-4) -> VicregTerms:
    """Invariance, variance and covariance of two views.

    Bardes et al. 2022, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
    Learning", equations 1–5: invariance = mean over B and D of (a − b)²; variance =
    ½·[v(a) + v(b)], v = mean_d relu(1 − √(var_d + ε)); covariance = c(a) + c(b),
    c = Σ_{d≠e} cov_de² / D. Variances and covariances are unbiased.

    Views are [B, D], B ≥ 2, and are not normalised. eps: ε > 0.
    """
    if z_a.shape != z_b.shape or z_a.ndim != 2 or len(z_a) < 2:
        shapes = f"{tuple(z_a.shape)} and {tuple(z_b.shape)}"
        raise ValueError(f"vicreg needs two views [B, D] with B ≥ 2, got {shapes}")
    invariance = F.mse_loss(z_a, z_b)  # first, so that its gradients are made last
    variance_a, covariance_a = _spread(z_a, eps)
    variance_b, covariance_b = _spread(z_b, eps)
    return VicregTerms(
        invariance=invariance,
        variance=0.5 * (variance_a + variance_b),
        covariance=covariance_a + covariance_b,
    )


@full_precision
def vicreg(
    z_a: Tensor,
    z_b: Tensor,
    *,
    lambda_: float = 25.0,
    mu: float = 25.0,
    nu: float = 1.0,
    eps: float = 1e-4,
    **by_symbol: float,
) -> Tensor:
    """λ·invariance + μ·variance + ν·covariance of `vicreg_terms`.

    λ may also be given as `lambda`, which Python does not allow as the name of a parameter.
    """
    lambda_ = by_symbol.pop("lambda", lambda_)
    if by_symbol:
        raise TypeError(f"vicreg has no setting {', '.join(sorted(by_symbol))}")
    terms = vicreg_terms(z_a, z_b, eps=eps)
    return lambda_ * terms.invariance + mu * terms.variance + nu * terms.covariance


def _spread(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Variance and covariance term of one view."""
    batch, dim = z.shape
    centered = z - z.mean(dim=0)
    # ‖ZᵀZ‖ = ‖ZZᵀ‖, so the smaller of the two products is enough.
    product = centered @ centered.T if batch < dim else centered.T @ centered
    variances = z.var(dim=0) if batch < dim else product.diagonal() / (batch - 1)
    off_diagonal = product.square().sum() / (batch - 1) ** 2 - variances.square().sum()
    return torch.relu(1 - torch.sqrt(variances + eps)).mean(), off_diagonal / dim
