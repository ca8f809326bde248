"""Losses that place a positive nearer to its anchor than a negative, by a margin.

Legend: B batch, D embedding size; d_ap and d_an are distances from an anchor to a positive (another
sample of its label) and to a negative (a sample of another label).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from clip_pkg.losses.functional.numerics import full_precision, log1p_exp, unit

# Up to this many products the differences themselves are computed: exact, and not slower.
EXACT_UP_TO = 2**20

Mining = Literal["batch_all", "batch_hard"]
TripletReduction = Literal["mean_over_all", "mean_over_nonzero"]


def pairwise_distances(x: Tensor) -> Tensor:
    """Distances ‖x_i − x_j‖, [B, B]; x: [B, D].

    Small batches are exact. Larger ones use the Gram matrix, where distances below about
    √(16·eps)·‖x_i‖ (1.4e-3 of the norm in float32, 6e-8 in float64) are noise and become 0.
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


@full_precision
def triplet(
    embeddings: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    margin: float = 0.2,
    mining: Mining = "batch_all",
    power: float = 1,
    reduction: TripletReduction = "mean_over_nonzero",
    swap: bool = False,
    soft_margin: bool = False,
    normalize_inputs: bool = True,
) -> Tensor:
    """Mean of relu(d_ap − d_an + m) over triplets found in the batch.

    Schroff et al. 2015, "FaceNet", section 3.1; `batch_hard` and `batch_all`: Hermans et al. 2017,
    "In Defense of the Triplet Loss for Person Re-Identification", equations 5 and 6.

    `batch_all` needs memory for B² numbers, whatever the number of triplets; only with `swap` or
    `soft_margin` it needs B for every positive pair.

    Args:
        embeddings: [B, D].
        labels: [B] int64.
        mask: [B] bool, samples that may be in a triplet (the others must be finite); None for all.
        margin: m.
        mining: every triplet, or for each anchor its farthest positive and nearest negative.
        power: distances are ‖·‖^power, power ≥ 1.
        reduction: over all triplets, or over those whose loss is above 0.
        swap: use the distance from the positive to the negative where it is smaller.
        soft_margin: log(1 + exp(·)) instead of relu.
        normalize_inputs: L2-normalise `embeddings` first.

    Returns:
        Scalar; 0 without a triplet. Pairs at distance 0 get gradient 0.
    """
    if mining not in ("batch_all", "batch_hard"):
        raise ValueError(f"mining is batch_all or batch_hard, not {mining!r}")
    if reduction not in ("mean_over_all", "mean_over_nonzero"):
        raise ValueError(f"reduction is mean_over_all or mean_over_nonzero, not {reduction!r}")
    distances = pairwise_distances(unit(embeddings) if normalize_inputs else embeddings)
    if power != 1:
        distances = distances**power
    same = labels[:, None] == labels[None, :]
    negative = ~same
    if mask is not None:
        pairs = mask[:, None] & mask[None, :]
        same, negative = same & pairs, negative & pairs
    positive = same.fill_diagonal_(False)
    if mining == "batch_all" and not (swap or soft_margin):
        return _all_triplets(distances, positive, negative, margin, reduction)
    mine = _hardest_violations if mining == "batch_hard" else _all_violations
    violations, exists = mine(distances, positive, negative, swap)
    violations = violations + margin
    losses = log1p_exp(violations) if soft_margin else F.relu(violations)
    counted = exists if reduction == "mean_over_all" else exists & (losses > 0)
    return torch.where(exists, losses, 0.0).sum() / counted.sum().clamp(min=1)


@full_precision
def triplet_explicit(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float = 1.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> Tensor:
    """Mean of relu(‖a − p + ε‖ − ‖a − n + ε‖ + m) over given triplets.

    Balntas et al. 2016, "Learning local feature descriptors with triplets and shallow convolutional
    neural networks", as in torch: ε is added to every component of the differences.

    anchor, positive, negative: [B, D]. swap: use ‖p − n‖ where it is smaller than ‖a − n‖.
    """
    return F.triplet_margin_loss(anchor, positive, negative, margin, eps=eps, swap=swap)


def _all_triplets(
    distances: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float,
    reduction: TripletReduction,
) -> Tensor:
    """Mean over all triplets without listing them.

    The sum over violated triplets of d_ap + m − d_an is linear in the distances: each counts as
    often as its pair is in a violated triplet. An anchor's sorted negatives give these counts.
    """
    with torch.no_grad():
        in_order, order = distances.masked_fill(~negative, torch.inf).sort(dim=1)
        reach = torch.where(positive, distances + margin, -torch.inf)
        per_positive = torch.searchsorted(in_order, reach)  # negatives nearer than d_ap + m
        farther = torch.zeros_like(distances).scatter_add_(
            1, (per_positive - 1).clamp(min=0), (per_positive > 0).to(distances.dtype)
        )
        # A positive that reaches the k-th negative also reaches those before it.
        per_rank = farther.flip(1).cumsum(1).flip(1)
        per_negative = torch.zeros_like(distances).scatter_(1, order, per_rank)
        coefficient = per_positive - per_negative
        violated = per_positive.sum().to(distances.dtype)
        count = violated
        if reduction == "mean_over_all":
            count = (positive.sum(dim=1) * negative.sum(dim=1)).sum()
    total = (coefficient * distances).sum(dim=1).sum() + margin * violated
    return total / count.clamp(min=1)


def _all_violations(
    distances: Tensor, positive: Tensor, negative: Tensor, swap: bool
) -> tuple[Tensor, Tensor]:
    """d_ap − d_an of every positive pair with every sample, and which are negatives."""
    a, p = positive.nonzero(as_tuple=True)
    to_negative = distances[a]
    if swap:
        to_negative = torch.minimum(to_negative, distances[p])
    return distances[a, p][:, None] - to_negative, negative[a]


def _hardest_violations(
    distances: Tensor, positive: Tensor, negative: Tensor, swap: bool
) -> tuple[Tensor, Tensor]:
    """d_ap − d_an of every anchor's hardest triplet, and whether it has one."""
    detached = distances.detach()
    farthest = detached.masked_fill(~positive, -torch.inf).argmax(dim=1, keepdim=True)
    nearest = detached.masked_fill(~negative, torch.inf).argmin(dim=1, keepdim=True)
    to_positive, to_negative = distances.gather(1, farthest), distances.gather(1, nearest)
    if swap:
        to_negative = torch.minimum(to_negative, distances[farthest, nearest])
    return (to_positive - to_negative)[:, 0], positive.any(dim=1) & negative.any(dim=1)
