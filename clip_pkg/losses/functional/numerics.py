"""Numerics that losses share: precision, masks, unit vectors, finite log-sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def autocast_off(device: torch.device) -> Iterator[None]:
    """Suspend autocast on `device`."""
    if torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):
            yield
    else:
        yield


def widened(tensor: Tensor) -> Tensor:
    """Convert float16 and bfloat16 to float32; other types, such as float64, stay."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def widest_float(device: torch.device) -> torch.dtype:
    """float64, but float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def full_precision(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Widen half-precision tensor arguments and keep autocast out of `function`."""

    @wraps(function)
    def in_full_precision(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        wide_args = [widened(a) if isinstance(a, Tensor) else a for a in args]
        wide_kwargs = {k: widened(a) if isinstance(a, Tensor) else a for k, a in kwargs.items()}
        device = next(
            (a.device for a in (*wide_args, *wide_kwargs.values()) if isinstance(a, Tensor)),
            torch.device("cpu"),
        )
        with autocast_off(device):
            return function(*wide_args, **wide_kwargs)  # type: ignore[arg-type]

    return in_full_precision


def masked_mean(losses: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of `losses` where `mask`, of the same shape, is true (None: everywhere); 0 if nowhere.

    The other losses must be finite; their gradient is exactly 0.
    """
    if mask is None:
        return losses.mean()
    return torch.where(mask, losses, 0.0).sum() / mask.sum().clamp(min=1)


def unit(vectors: Tensor) -> Tensor:
    """Scale the last dimension to length 1; a zero vector stays zero, with gradient 0."""
    return F.normalize(vectors, dim=-1)


def two_views(first: Tensor, second: Tensor, *, smallest_batch: int = 1) -> tuple[Tensor, Tensor]:
    """Check two views [B, D] of one batch and make them unit vectors.

    Raises:
        ValueError: the shapes differ, are not [B, D], or B is below `smallest_batch`.
    """
    if first.shape != second.shape or first.ndim != 2:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"two views need the same shape [B, D], got {shapes}")
    if first.shape[0] < smallest_batch:
        raise ValueError(f"this loss needs a batch of at least {smallest_batch}")
    return unit(first), unit(second)


def lowest(like: Tensor) -> float:
    """Return the lowest finite number of the tensor's type."""
    return torch.finfo(like.dtype).min


def logsumexp(values: Tensor, dim: int) -> Tensor:
    """`torch.logsumexp` of finite values; its backward pass allocates one copy, not three."""
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
    """Logarithm of the sum of exp(values) over `dim` where `keep`, broadcastable, is true."""
    return torch.logsumexp(values.masked_fill(~keep, lowest(values)), dim=dim)


def without_diagonal(square: Tensor) -> Tensor:
    """Remove the diagonal of a fresh [B, B] matrix from all log-sum-exps, in place."""
    return square.fill_diagonal_(lowest(square))


def log1p_exp(values: Tensor) -> Tensor:
    """log(1 + exp(x)), to full float64 precision; torch's own threshold of 20 is off by 2e-9."""
    return F.softplus(values, threshold=50.0)
