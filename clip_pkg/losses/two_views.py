"""Losses between two views of the same images, for pre-training.

Legend: B images of a batch, P size of the projected views, K length of a queue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clip_pkg.config.pretraining import QueueConfig
from clip_pkg.config.two_view_losses import (
    DhelConfig,
    InfoNceViewsConfig,
    PretrainLossConfig,
    SupConViewsConfig,
)
from clip_pkg.losses import functional
from clip_pkg.losses.contract import LossOutput, weighted_sum
from clip_pkg.losses.functional.numerics import unit


class TwoViewLoss(nn.Module):
    """Base class: two views [B, P] of the same images, and their classes [B] → the loss."""

    def __init__(self, config: PretrainLossConfig) -> None:
        super().__init__()
        self.config = config
        self.term_weights = dict(config.term_weights())

    def forward(self, first: Tensor, second: Tensor, labels: Tensor | None = None) -> LossOutput:
        """Compute the loss of one batch; only losses with `uses_labels` need `labels`."""
        return weighted_sum(self.terms(first, second, labels), self.term_weights, {})

    def terms(self, first: Tensor, second: Tensor, labels: Tensor | None) -> Mapping[str, Tensor]:
        """Unweighted terms by name, [] each."""
        raise NotImplementedError


class _PairwiseLoss(TwoViewLoss):
    """A function of two views that takes the settings of its config by their names."""

    function: ClassVar[Callable[..., Tensor]]

    def terms(self, first: Tensor, second: Tensor, _labels: Tensor | None) -> Mapping[str, Tensor]:
        return {self.config.type: type(self).function(first, second, **self.config.settings())}


class InfoNceViews(_PairwiseLoss):
    function = staticmethod(functional.info_nce)


class NtXent(_PairwiseLoss):
    function = staticmethod(functional.nt_xent)


class Dcl(_PairwiseLoss):
    function = staticmethod(functional.dcl_oneway)


class DclSymmetric(_PairwiseLoss):
    function = staticmethod(functional.dcl_symmetric)


class Dclw(_PairwiseLoss):
    function = staticmethod(functional.dclw_symmetric)


class Kcl(_PairwiseLoss):
    function = staticmethod(functional.kcl_gaussian)


class Dhel(TwoViewLoss):
    config: DhelConfig

    def terms(self, first: Tensor, second: Tensor, _labels: Tensor | None) -> Mapping[str, Tensor]:
        tau, include_augs = self.config.temperature, self.config.include_augs
        return {"dhel": functional.dhel(first, second, tau=tau, include_augs=include_augs)}


class Vicreg(TwoViewLoss):
    def terms(self, first: Tensor, second: Tensor, _labels: Tensor | None) -> Mapping[str, Tensor]:
        return functional.vicreg_terms(first, second)._asdict()


class SupConViews(TwoViewLoss):
    config: SupConViewsConfig

    def terms(self, first: Tensor, second: Tensor, labels: Tensor | None) -> Mapping[str, Tensor]:
        assert labels is not None, "supcon needs labels; the config checks it"
        views, of_views = torch.cat([first, second]), labels.repeat(2)
        temperature = self.config.temperature
        return {"supcon": functional.supcon(views, of_views, temperature=temperature)}


class QueuedInfoNce(TwoViewLoss):
    """InfoNCE whose negatives include the last K second views (He et al. 2020, MoCo).

    The queue grows until it holds K views. In training mode each batch's second views enter it
    after the loss was computed.
    """

    queue: Tensor
    seen: Tensor

    def __init__(self, config: InfoNceViewsConfig, queue: QueueConfig, dim: int) -> None:
        super().__init__(config)
        self._temperature = config.temperature
        self.register_buffer("queue", torch.zeros(queue.size, dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._count = 0  # `seen` on the host, so that reading it does not wait for the device

    def terms(self, first: Tensor, second: Tensor, _labels: Tensor | None) -> Mapping[str, Tensor]:
        size = len(self.queue)
        kept = self.queue[: min(self._count, size)].clone()
        loss = functional.info_nce(first, second, kept, temperature=self._temperature)
        if self.training:
            newest = unit(second.detach().float())[-size:]
            places = (torch.arange(len(newest), device=second.device) + self._count) % size
            self.queue[places] = newest
            self._count += len(newest)
            self.seen.fill_(self._count)
        return {"info_nce": loss}

    def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
        result = super().load_state_dict(*arguments, **named)
        self._count = int(self.seen)
        return result
