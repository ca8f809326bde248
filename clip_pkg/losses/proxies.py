"""The `proxy` and `combined` objectives: one learned point per class.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clip_pkg.config.loss_blocks import ProxyConfig
from clip_pkg.config.losses import CombinedLossConfig, ProxyLossConfig
from clip_pkg.losses.classification import ClassificationObjective, cross_entropy_objective
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import focal_proxy_anchor, proxy_anchor
from clip_pkg.losses.functional.numerics import full_precision, unit


class ProxyObjective(Objective):
    """Proxy-Anchor loss (Kim et al. 2020, equation 4) or its focal form; nearest proxy predicts.

    Part: `proxy`.

    Args:
        num_classes: C.
        embed_dim: D.
        alpha: scale of the cosines, in the prediction as well.
        delta: margin.
        focus: γ⁺ and γ⁻ of `focal_proxy_anchor`; both 0 for `proxy_anchor`.
        lr_scale: factor on the learning rate of the proxies.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        *,
        alpha: float = 32.0,
        delta: float = 0.1,
        focus: tuple[float, float] = (0.0, 0.0),
        lr_scale: float = 100.0,
    ) -> None:
        super().__init__({"proxy": 1.0})
        self.proxies = nn.Parameter(torch.empty(num_classes, embed_dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")  # as Kim et al.
        self.alpha = alpha
        self.delta = delta
        self.focus = focus
        self.lr_scale = lr_scale

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        images, targets, mask = inputs.image_features, inputs.targets, inputs.mask
        proxies, (gamma_pos, gamma_neg) = self.proxies.to(images.dtype), self.focus
        if gamma_pos == gamma_neg == 0:
            loss = proxy_anchor(images, proxies, targets, mask, alpha=self.alpha, margin=self.delta)
        else:
            loss = focal_proxy_anchor(
                images,
                proxies,
                targets,
                mask,
                alpha=self.alpha,
                margin=self.delta,
                gamma_pos=gamma_pos,
                gamma_neg=gamma_neg,
            )
        return self.weighted_sum({"proxy": loss})

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """α · cosines to the proxies, [B, C]."""
        return self.alpha * _cosines(inputs.image_features, self.proxies)


@full_precision
def _cosines(features: Tensor, proxies: Tensor) -> Tensor:
    return unit(features) @ unit(proxies).T.to(features.dtype)


class CombinedObjective(Objective):
    """total = λ · CE + (1 − λ) · Proxy.

    The classifier of CE predicts, or the nearest proxy where λ = 0 leaves it untrained. CE takes
    soft labels, Proxy looks at the class with the largest share.

    Parts: `ce`, `proxy`.
    """

    def __init__(
        self, classification: ClassificationObjective, proxy: ProxyObjective, share: float = 0.5
    ) -> None:
        super().__init__({"ce": share, "proxy": 1.0 - share})
        self.classification = classification
        self.proxy = proxy

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        return self.weighted_sum({**self.classification(inputs).parts, **self.proxy(inputs).parts})

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Logits of the classifier, [B, C]; with λ = 0 those of the proxies."""
        predicts = self.proxy if self.part_weights["ce"] == 0 else self.classification
        return predicts.prediction_logits(inputs)


def _proxy_objective(config: ProxyConfig, training_set: TrainingSet) -> ProxyObjective:
    return ProxyObjective(
        training_set.num_classes,
        training_set.embed_dim,
        alpha=config.alpha,
        delta=config.delta,
        focus=config.focus,
        lr_scale=config.proxy_lr_scale,
    )


def build_proxy(config: ProxyLossConfig, training_set: TrainingSet) -> ProxyObjective:
    """Make the objective; it owns its proxies."""
    return _proxy_objective(config, training_set)


def build_combined(config: CombinedLossConfig, training_set: TrainingSet) -> CombinedObjective:
    """Make the objective; it owns its proxies, and its classifier where that is linear."""
    return CombinedObjective(
        cross_entropy_objective(config, training_set),
        _proxy_objective(config, training_set),
        config.lambda_combined,
    )
