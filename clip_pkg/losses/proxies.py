"""The `proxy` and `combined` objectives: one learned point per class.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clip_pkg.config.loss_blocks import ProxyConfig
from clip_pkg.config.losses import CombinedLossConfig
from clip_pkg.losses.classification import ClassificationObjective
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import focal_proxy_anchor, proxy_anchor
from clip_pkg.losses.functional.numerics import full_precision, unit


class ProxyObjective(Objective):
    """Proxy-Anchor loss (Kim et al. 2020, equation 4) or its focal form; nearest proxy predicts.

    Terms: `proxy`.
    """

    def __init__(self, config: ProxyConfig, training_set: TrainingSet) -> None:
        super().__init__({"proxy": 1.0})
        self.proxies = nn.Parameter(torch.empty(training_set.num_classes, training_set.embed_dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")  # as Kim et al.
        self.alpha = config.alpha
        self.delta = config.delta
        self.focus = config.focus
        self.lr_scale = config.proxy_lr_scale

    def forward(self, inputs: LossInputs) -> LossOutput:
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

    The classifier of CE predicts, or, with λ = 0, the nearest proxy. CE uses soft labels, Proxy the
    class with the largest share.

    Terms: `ce`, `proxy`.
    """

    def __init__(self, config: CombinedLossConfig, training_set: TrainingSet) -> None:
        share = config.lambda_combined
        super().__init__({"ce": share, "proxy": 1.0 - share})
        self.classification = ClassificationObjective(config, training_set)
        self.proxy = ProxyObjective(config, training_set)

    def forward(self, inputs: LossInputs) -> LossOutput:
        return self.weighted_sum({**self.classification(inputs).terms, **self.proxy(inputs).terms})

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Logits of the classifier, [B, C]; with λ = 0 those of the proxies."""
        predicts = self.proxy if self.term_weights["ce"] == 0 else self.classification
        return predicts.prediction_logits(inputs)
