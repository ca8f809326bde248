"""Contrastive objectives between images and class texts: `clip`, `siglip`, `supcon`.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clip_pkg.config.losses import ClipLossConfig, SigLipLossConfig, SupConLossConfig
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import class_text_clip, class_text_siglip, supcon


class ClipObjective(Objective):
    """Images against the class texts of their batch (Radford et al. 2021, figure 3).

    There is nothing to choose by `positives` at this point: a class has one text, and then
    `same_class` and `diagonal` are one and the same function (see `class_text_clip`).

    Part: `contrastive`.
    """

    def __init__(self) -> None:
        super().__init__({"contrastive": 1.0})

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        contrastive = class_text_clip(inputs.class_logits(), inputs.targets, inputs.mask)
        return self.weighted_sum({"contrastive": contrastive})


class SigLipObjective(Objective):
    """Every image and text of a batch is a yes-or-no question (Zhai et al. 2023, algorithm 1).

    The bias is learned here, the scale is the model's learned 1/temperature.

    Part: `siglip`.
    """

    def __init__(self, initial_bias: float = -10.0) -> None:
        super().__init__({"siglip": 1.0})
        self.bias = nn.Parameter(torch.tensor(float(initial_bias)))

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        loss = class_text_siglip(self.prediction_logits(inputs), inputs.targets, inputs.mask)
        return self.weighted_sum({"siglip": loss})

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Scaled cosines plus bias, [B, C]; the bias makes no difference to their softmax."""
        logits = inputs.class_logits()
        return logits + self.bias.to(logits.dtype)


class SupConObjective(Objective):
    """Supervised contrast of images and class texts (Khosla et al. 2020, equation 2).

    The texts of all C classes join the batch as one more sample of their class each, so that they
    learn as well and can predict, at the loss's own temperature.

    Part: `supcon`.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__({"supcon": 1.0})
        self.temperature = temperature

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        images, texts = inputs.image_features, inputs.texts
        classes = torch.arange(len(texts), device=texts.device)
        mask = inputs.mask
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(classes, dtype=torch.bool)])
        loss = supcon(
            torch.cat([images, texts]),
            torch.cat([inputs.targets, classes]),
            mask,
            temperature=self.temperature,
        )
        return self.weighted_sum({"supcon": loss})

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Cosines to the class texts over the loss's temperature, [B, C]."""
        return inputs.class_cosines() / self.temperature


def build_clip(config: ClipLossConfig, training_set: TrainingSet) -> ClipObjective:
    """Make the objective; it has no settings and no state."""
    del config, training_set
    return ClipObjective()


def build_siglip(config: SigLipLossConfig, training_set: TrainingSet) -> SigLipObjective:
    """Make the objective; it owns its bias."""
    del training_set
    return SigLipObjective(config.initial_bias)


def build_supcon(config: SupConLossConfig, training_set: TrainingSet) -> SupConObjective:
    """Make the objective; it has no state."""
    del training_set
    return SupConObjective(config.temperature)
