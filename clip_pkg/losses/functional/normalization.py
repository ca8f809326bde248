"""Unit vectors and what is made of them.

Legend: B batch, D embedding size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def unit(vectors: Tensor) -> Tensor:
    """Scale the last dimension to length 1; a zero vector stays zero, with gradient 0."""
    return F.normalize(vectors, dim=-1)


def two_views(first: Tensor, second: Tensor, *, smallest_batch: int = 1) -> tuple[Tensor, Tensor]:
    """Check two views of one batch and make them unit vectors.

    Args:
        first: [B, D].
        second: [B, D].
        smallest_batch: the B below which the loss has no meaning.

    Raises:
        ValueError: the shapes differ, are not [B, D], or B is too small.
    """
    if first.shape != second.shape or first.ndim != 2:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"two views need the same shape [B, D], got {shapes}")
    if first.shape[0] < smallest_batch:
        raise ValueError(f"this loss needs a batch of at least {smallest_batch}")
    return unit(first), unit(second)
