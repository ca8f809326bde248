"""Means over the samples that count."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(losses: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of `losses` where `mask`, of the same shape, is true; 0 when it is nowhere.

    None stands for everywhere. The other losses must be finite; their gradient is exactly 0.
    """
    if mask is None:
        return losses.mean()
    return torch.where(mask, losses, 0.0).sum() / mask.sum().clamp(min=1)
