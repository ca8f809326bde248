"""One step of pre-training: two views of a batch → the loss → one update.

Legend: B images of a batch, P size that the loss compares.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from clip_pkg.data.two_views import TwoViews
from clip_pkg.losses.contract import LossOutput
from clip_pkg.losses.two_views import ViewsLoss
from clip_pkg.models.precision import Precision
from clip_pkg.training.image_forward import ImageSide
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.pretraining_model import ViewsModel


@dataclass(frozen=True, eq=False)
class ViewsOutcome:
    """What a step was about, on the device: the loss and both projected views [B, P]."""

    output: LossOutput
    first: Tensor
    second: Tensor


class ViewsStep(Protocol):
    """Trains on one batch."""

    def __call__(self, views: TwoViews) -> ViewsOutcome:
        """Compute the loss of one batch and apply it."""
        ...


@dataclass(frozen=True, eq=False)
class OneEncoderStep:
    """Both views go through the encoder as one batch, whose statistics batch norms use.

    In parts, if they are to: then the encoder's batch norms use those of a part, and the
    projection's still those of all.
    """

    model: ViewsModel
    loss: ViewsLoss
    image_side: ImageSide
    optimisation: Optimisation
    precision: Precision

    def __call__(self, views: TwoViews) -> ViewsOutcome:
        """See `ViewsStep`."""
        embedded = self.image_side(torch.cat([views.first, views.second]))
        with self.precision.autocast():
            projected = self.model.projected(embedded.embeddings)
        first, second = projected.chunk(2)
        output = self.loss(first, second, views.targets)
        self.optimisation.apply(output.total, embedded.backward)
        return ViewsOutcome(output, first.detach(), second.detach())


@dataclass(frozen=True, eq=False)
class SlowCopyStep:
    """Second views go through a slow copy (He et al. 2020, arXiv:1911.05722, section 3.2).

    Each view is a batch of its own to the batch norms, in training mode in both encoders.
    momentum: share of the slow copy that stays as it is.
    """

    model: ViewsModel
    slow: ViewsModel
    momentum: float
    loss: ViewsLoss
    image_side: ImageSide
    optimisation: Optimisation
    precision: Precision

    def __call__(self, views: TwoViews) -> ViewsOutcome:
        """See `ViewsStep`."""
        embedded = self.image_side(views.first)
        with self.precision.autocast():
            first = self.model.projected(embedded.embeddings)
            with torch.no_grad():
                second = self.slow(views.second)
        output = self.loss(first, second, views.targets)
        self.optimisation.apply(output.total, embedded.backward)
        follow(self.slow, self.model, self.momentum)
        return ViewsOutcome(output, first.detach(), second)


def slow_copy(model: ViewsModel) -> ViewsModel:
    """Copy a model; no gradient reaches the copy."""
    return copy.deepcopy(model).requires_grad_(requires_grad=False)


@torch.no_grad()
def follow(slow: nn.Module, model: nn.Module, momentum: float) -> None:
    """Move the parameters of `slow` towards those of `model`; it has batch statistics of its own.

    A step that was not finite left the model as it was, so that the copy stays finite as well.
    """
    torch._foreach_lerp_(
        list(slow.parameters()), [p.detach() for p in model.parameters()], 1 - momentum
    )
