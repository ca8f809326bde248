"""One row per loss between two views of the same images: how it is built, and how people see it.

The keys are the kinds (`type`) of the config's `pretrain.loss`.

Legend: B images of a batch, P size of what the projection gives, K places of a queue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from clip_pkg.config.pretraining import (
    DclConfig,
    DclSymmetricConfig,
    DclwConfig,
    DhelConfig,
    InfoNceViewsConfig,
    KclConfig,
    NtXentConfig,
    PretrainLossConfig,
    QueueConfig,
    SupConViewsConfig,
    VicregConfig,
)
from clip_pkg.losses.contract import LossOutput, PartLabel, weighted_sum
from clip_pkg.losses.functional import (
    dcl_oneway,
    dcl_symmetric,
    dclw_symmetric,
    dhel,
    info_nce,
    kcl_gaussian,
    nt_xent,
    supcon,
    vicreg_terms,
)
from clip_pkg.losses.functional.numerics import unit

Terms: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Mapping[str, Tensor]]


class ViewsLoss(nn.Module):
    """Two views [B, P] of the same images, and perhaps their classes [B] → the loss.

    terms: (first, second, labels) -> unweighted parts by name, [] each. weights: of the parts.
    """

    def __init__(self, terms: Terms, weights: Mapping[str, float]) -> None:
        super().__init__()
        self._terms = terms
        self.part_weights = dict(weights)

    def forward(self, first: Tensor, second: Tensor, labels: Tensor | None = None) -> LossOutput:
        """Compute the loss of one batch."""
        return weighted_sum(self._terms(first, second, labels), self.part_weights, {})


class QueuedInfoNce(ViewsLoss):
    """InfoNCE whose negatives are also the last K second views (He et al. 2020, MoCo).

    Until K were seen the queue is as long as it is. In training mode each batch's second views
    enter it after the loss was computed.
    """

    queue: Tensor
    seen: Tensor

    def __init__(self, config: InfoNceViewsConfig, queue: QueueConfig, dim: int) -> None:
        self._temperature = config.temperature
        super().__init__(self._queued, {config.type: 1.0})
        self.register_buffer("queue", torch.zeros(queue.size, dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._count = 0  # `seen`, which need not be asked of the device

    def _queued(self, first: Tensor, second: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        del labels
        size = len(self.queue)
        kept = self.queue[: min(self._count, size)].clone()
        loss = info_nce(first, second, kept, temperature=self._temperature)
        if self.training:
            newest = unit(second.detach().float())[-size:]
            places = (torch.arange(len(newest), device=second.device) + self._count) % size
            self.queue[places] = newest
            self._count += len(newest)
            self.seen.fill_(self._count)
        return {"info_nce": loss}

    def load_state_dict(self, *arguments: Any, **named: Any) -> Any:
        """Go on from `state_dict()`."""
        result = super().load_state_dict(*arguments, **named)
        self._count = int(self.seen)
        return result


@dataclass(frozen=True)
class ViewsLossRow:
    """One loss between two views.

    config_class: its block in the config. terms: config block -> what computes its parts.
    parts: its unweighted parts by name, and how people see them. source: paper and equation.
    weights: config block -> weight of each part; None for a loss of one part.
    """

    config_class: type[PretrainLossConfig]
    terms: Callable[[Any], Terms]
    parts: Mapping[str, PartLabel]
    source: str
    weights: Callable[[Any], Mapping[str, float]] | None = None

    def build(self, config: PretrainLossConfig) -> ViewsLoss:
        """Build what a config block describes."""
        weights = dict.fromkeys(self.parts, 1.0) if self.weights is None else self.weights(config)
        return ViewsLoss(self.terms(config), weights)


def _of_pairs(loss: Callable[..., Tensor]) -> Callable[[PretrainLossConfig], Terms]:
    """Terms of a loss that takes two views and the settings of its block by their names."""

    def bound(config: PretrainLossConfig) -> Terms:
        settings = config.settings()
        return lambda first, second, labels: {config.type: loss(first, second, **settings)}

    return bound


def _dhel(config: DhelConfig) -> Terms:
    def terms(first: Tensor, second: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        del labels
        settings = {"tau": config.temperature, "include_augs": config.include_augs}
        return {"dhel": dhel(first, second, **settings)}  # type: ignore[arg-type]  # names differ

    return terms


def _vicreg(config: VicregConfig) -> Terms:
    del config  # the weights are not the terms'
    return lambda first, second, labels: vicreg_terms(first, second)._asdict()


def _supcon(config: SupConViewsConfig) -> Terms:
    def terms(first: Tensor, second: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        assert labels is not None, "supcon learns from labels; the config checks it"
        views, of_views = torch.cat([first, second]), labels.repeat(2)
        return {"supcon": supcon(views, of_views, temperature=config.temperature)}

    return terms


def _part(label: str, short: str) -> PartLabel:
    return PartLabel(label, short, f"Loss/{label}")


PRETRAIN_LOSSES: Mapping[str, ViewsLossRow] = MappingProxyType(
    {
        "info_nce": ViewsLossRow(
            InfoNceViewsConfig,
            _of_pairs(info_nce),
            {"info_nce": _part("InfoNCE", "nce")},
            "van den Oord et al. 2018, arXiv:1807.03748, equation 4; "
            "queue: He et al. 2020, arXiv:1911.05722",
        ),
        "nt_xent": ViewsLossRow(
            NtXentConfig,
            _of_pairs(nt_xent),
            {"nt_xent": _part("NT-Xent", "ntx")},
            "Chen et al. 2020, arXiv:2002.05709, equation 1",
        ),
        "dcl": ViewsLossRow(
            DclConfig,
            _of_pairs(dcl_oneway),
            {"dcl": _part("DCL", "dcl")},
            "Yeh et al. 2022, arXiv:2110.06848, section 3",
        ),
        "dcl_symmetric": ViewsLossRow(
            DclSymmetricConfig,
            _of_pairs(dcl_symmetric),
            {"dcl_symmetric": _part("DCL", "dcl")},
            "Yeh et al. 2022, arXiv:2110.06848, section 3",
        ),
        "dclw": ViewsLossRow(
            DclwConfig,
            _of_pairs(dclw_symmetric),
            {"dclw": _part("DCLW", "dclw")},
            "Yeh et al. 2022, arXiv:2110.06848, section 3",
        ),
        "dhel": ViewsLossRow(
            DhelConfig,
            _dhel,
            {"dhel": _part("DHEL", "dhel")},
            "Koromilas et al. 2024, arXiv:2405.18045",
        ),
        "kcl": ViewsLossRow(
            KclConfig,
            _of_pairs(kcl_gaussian),
            {"kcl": _part("KCL", "kcl")},
            "Koromilas et al. 2024, arXiv:2405.18045",
        ),
        "vicreg": ViewsLossRow(
            VicregConfig,
            _vicreg,
            {
                "invariance": _part("Invariance", "inv"),
                "variance": _part("Variance", "var"),
                "covariance": _part("Covariance", "cov"),
            },
            "Bardes et al. 2022, arXiv:2105.04906, equations 1–6",
            weights=lambda config: {
                "invariance": config.invariance_weight,
                "variance": config.variance_weight,
                "covariance": config.covariance_weight,
            },
        ),
        "supcon": ViewsLossRow(
            SupConViewsConfig,
            _supcon,
            {"supcon": _part("SupCon", "supcon")},
            "Khosla et al. 2020, arXiv:2004.11362, equation 2",
        ),
    }
)


def build_views_loss(
    config: PretrainLossConfig, *, queue: QueueConfig | None = None, dim: int
) -> ViewsLoss:
    """Build the loss that a config's `pretrain.loss` and `pretrain.queue` describe; dim: P."""
    if queue is None:
        return PRETRAIN_LOSSES[config.type].build(config)
    assert isinstance(config, InfoNceViewsConfig), "a queue is for info_nce; the config checks it"
    return QueuedInfoNce(config, queue, dim)
