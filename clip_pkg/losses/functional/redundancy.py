"""Losses that keep two views alike and their dimensions apart, without negatives.

Legend: B batch, D embedding size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.losses.functional.precision import full_precision


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

    Args:
        z_a: [B, D], B ≥ 2, not normalised.
        z_b: [B, D].
        eps: ε > 0, inside the square root.
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
    """λ·invariance + μ·variance + ν·covariance of `vicreg_terms`; see there.

    Args:
        z_a: [B, D], B ≥ 2, not normalised.
        z_b: [B, D].
        lambda_: λ; also accepted as `lambda`, which Python does not allow as a name here.
        mu: μ.
        nu: ν.
        eps: inside the square root.
        **by_symbol: nothing but `lambda`.

    Returns:
        Scalar.
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
    # ‖ZᵀZ‖ = ‖ZZᵀ‖, so the smaller of the two products will do.
    product = centered @ centered.T if batch < dim else centered.T @ centered
    variances = z.var(dim=0) if batch < dim else product.diagonal() / (batch - 1)
    off_diagonal = product.square().sum() / (batch - 1) ** 2 - variances.square().sum()
    return torch.relu(1 - torch.sqrt(variances + eps)).mean(), off_diagonal / dim
