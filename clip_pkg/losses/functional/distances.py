"""Euclidean distances within a batch, with gradient 0 where the distance is 0.

Legend: B batch, D embedding size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Up to this many products the differences themselves are taken: exact, and not slower.
EXACT_UP_TO = 2**20


def pairwise_distances(x: Tensor) -> Tensor:
    """Distances ‖x_i − x_j‖, [B, B]; x: [B, D].

    Small batches are exact. Larger ones go through the Gram matrix, where distances below about
    √(16·eps)·‖x_i‖ (1.4e-3 of the norm in float32, 6e-8 in float64) drown in rounding and are 0.
    """
    if len(x) * x.numel() <= EXACT_UP_TO:
        return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    distances: Tensor = _GramDistances.apply(x)
    return distances


class _GramDistances(torch.autograd.Function):
    """√(‖x_i‖² + ‖x_j‖² − 2·x_i·x_j); one matrix product each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        norms = x.square().sum(dim=1)
        squared = torch.addmm(norms[:, None], x, x.T, alpha=-2).add_(norms)
        noise = 16 * torch.finfo(x.dtype).eps * norms
        distances = squared.masked_fill_(squared <= noise[:, None], 0.0).sqrt_()
        ctx.save_for_backward(x, distances)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, distances = ctx.saved_tensors
        ratio = (gradient / distances).masked_fill_(distances == 0, 0.0)
        both = ratio + ratio.T
        of_x: Tensor = both.sum(dim=1, keepdim=True) * x - both @ x
        return of_x
