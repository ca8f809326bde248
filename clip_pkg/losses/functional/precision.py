"""Losses run in single precision or better, whatever autocast the caller is in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def autocast_off(device: torch.device) -> Iterator[None]:
    """Suspend autocast on `device`; free of charge where it is not on."""
    if torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):
            yield
    else:
        yield


def widened(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; everything else, float64 too, stays what it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


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
