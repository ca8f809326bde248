"""Sums of exponentials that stay finite, in value and gradient, at any temperature.

What is left out of a sum is set to the lowest finite number: its exponential is exactly 0 beside
any kept entry, and a sum of which nothing is kept is a huge negative number instead of −∞, whose
gradient would be NaN.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def lowest(like: Tensor) -> float:
    """Return the lowest finite number of the tensor's type."""
    return torch.finfo(like.dtype).min


def logsumexp(values: Tensor, dim: int) -> Tensor:
    """`torch.logsumexp` for large matrices: its backward pass makes one of their size, not three.

    Args:
        values: any shape; finite.
        dim: the dimension that is summed.
    """
    result: Tensor = _LogSumExp.apply(values, dim)
    return result


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, dim: int) -> Tensor:
        result = torch.logsumexp(values, dim=dim)
        ctx.save_for_backward(values, result)
        ctx.dim = dim
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        values, result = ctx.saved_tensors
        softmax = (values - result.unsqueeze(ctx.dim)).exp_()
        return softmax.mul_(gradient.unsqueeze(ctx.dim)), None


def masked_logsumexp(values: Tensor, keep: Tensor, dim: int) -> Tensor:
    """Logarithm of the sum of exp(values) over `dim` where `keep` is true.

    Args:
        values: any shape.
        keep: bool, of the same shape or broadcastable to it.
        dim: the dimension that is summed.
    """
    return torch.logsumexp(values.masked_fill(~keep, lowest(values)), dim=dim)


def without_diagonal(square: Tensor) -> Tensor:
    """Take the diagonal of a fresh [B, B] matrix out of all log-sum-exps; changes it in place."""
    return square.fill_diagonal_(lowest(square))


def log1p_exp(values: Tensor) -> Tensor:
    """log(1 + exp(x)), to full float64 precision; torch's own threshold of 20 is off by 2e-9."""
    return F.softplus(values, threshold=50.0)
