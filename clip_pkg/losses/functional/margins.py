"""Softmax over class weights with a margin on the target's angle.

Legend: B batch, C classes, D embedding size, s > 0 scale; θ_y is the angle to the target's class
weight. Embeddings [B, D] and weights [C, D] are L2-normalised here; labels are [B] int64 in 0…C−1.
`mask` [B] bool selects the samples that count; the others must be finite and get gradient 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clip_pkg.losses.functional.classification import cross_entropy
from clip_pkg.losses.functional.numerics import full_precision, unit


@full_precision
def arcface(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    margin_radians: float | None = None,
    margin_degrees: float | None = None,
    scale: float = 64.0,
) -> Tensor:
    """Additive angular margin: cross-entropy in which the target's logit is s·cos(θ_y + m).

    Where θ_y > π − m, cos(θ_y + m) would rise again and is replaced by cos θ_y − m·sin m.
    Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
    equation 3. At θ_y = 0 or π, where the slope of sin θ is infinite, its gradient is set to 0.

    The margin m in [0, π] is given in radians or in degrees; 0.5 rad if in neither.

    Raises:
        ValueError: the two forms of the margin contradict each other.
    """
    from_degrees = 0.5 if margin_degrees is None else math.radians(margin_degrees)
    margin = from_degrees if margin_radians is None else margin_radians
    if margin_degrees is not None and not math.isclose(
        margin, from_degrees, rel_tol=1e-9, abs_tol=1e-12
    ):
        raise ValueError(f"margin_degrees={margin_degrees} is {from_degrees} rad, not {margin}")
    cosine = unit(embeddings) @ unit(weight).T
    own = cosine.gather(1, labels[:, None])
    sine_squared = (1 - own) * (1 + own)
    has_slope = sine_squared > 0
    sine = torch.where(has_slope, torch.where(has_slope, sine_squared, 1.0).sqrt(), 0.0)
    moved = torch.where(
        own < -math.cos(margin),
        own - margin * math.sin(margin),
        own * math.cos(margin) - sine * math.sin(margin),
    )
    return cross_entropy(scale * cosine.scatter(1, labels[:, None], moved), labels, mask)


@full_precision
def cosface(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    margin: float = 0.35,
    scale: float = 64.0,
) -> Tensor:
    """Additive cosine margin: cross-entropy in which the target's logit is s·(cos θ_y − m).

    Wang et al. 2018, "CosFace: Large Margin Cosine Loss for Deep Face Recognition", equation 4.
    """
    cosine = unit(embeddings) @ unit(weight).T
    taken_off = torch.full_like(labels[:, None], -margin, dtype=cosine.dtype)
    return cross_entropy(scale * cosine.scatter_add(1, labels[:, None], taken_off), labels, mask)
