"""Objectives of images and class texts: `clip`, `siglip`, `supcon`, `infonce`, `bce`.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from clip_pkg.config.losses import (
    ClipLossConfig,
    PairLossConfig,
    SigLipLossConfig,
    SupConLossConfig,
)
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import (
    class_text_bce,
    class_text_clip,
    class_text_info_nce,
    class_text_siglip,
    pair_statistics,
    supcon,
)
from clip_pkg.losses.functional.image_text import counts_in_batch


class ClipObjective(Objective):
    """Images against the class texts of their batch (Radford et al. 2021, figure 3).

    A class has one text, so both values of `positives` are the same function (`class_text_clip`).

    Terms: `contrastive`.
    """

    def __init__(self, _config: ClipLossConfig, _training_set: TrainingSet) -> None:
        super().__init__({"contrastive": 1.0})

    def forward(self, inputs: LossInputs) -> LossOutput:
        contrastive = class_text_clip(inputs.class_logits, inputs.targets, inputs.mask)
        return self.weighted_sum({"contrastive": contrastive})


class SigLipObjective(Objective):
    """A binary decision for every pair of image and text (Zhai et al. 2023, algorithm 1).

    The bias is learned here, the scale is the model's learned 1/temperature.

    Terms: `siglip`.
    """

    def __init__(self, config: SigLipLossConfig, _training_set: TrainingSet) -> None:
        super().__init__({"siglip": 1.0})
        self.bias = nn.Parameter(torch.tensor(float(config.initial_bias)))

    def forward(self, inputs: LossInputs) -> LossOutput:
        loss = class_text_siglip(self.prediction_logits(inputs), inputs.targets, inputs.mask)
        return self.weighted_sum({"siglip": loss})

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Scaled cosines plus bias, [B, C]; the bias does not change their softmax."""
        logits = inputs.class_logits
        return logits + self.bias.to(logits.dtype)


class SupConObjective(Objective):
    """Supervised contrast of images and class texts (Khosla et al. 2020, equation 2).

    The text of each of the C classes joins the batch as one more sample of its class, so that texts
    learn too and can predict, at the loss's own temperature.

    Terms: `supcon`.
    """

    def __init__(self, config: SupConLossConfig, _training_set: TrainingSet) -> None:
        super().__init__({"supcon": 1.0})
        self.temperature = config.temperature

    def forward(self, inputs: LossInputs) -> LossOutput:
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
        return inputs.class_cosines / self.temperature


class _PairObjective(Objective):
    """A loss of the cosine of each image and its class's text against those of negative texts.

    Logits are cosines over a fixed temperature, also for prediction. Negatives are the texts of the
    batch, or N texts drawn uniformly from all classes, with replacement, for the whole batch. A
    text of an image's own class never counts as its negative.

    Statistics: mean and standard deviation of the logits of positive and of negative pairs.
    """

    pair_loss: ClassVar[Callable[..., Tensor]]

    def __init__(self, config: PairLossConfig, _training_set: TrainingSet) -> None:
        super().__init__({config.type: 1.0})
        self.config = config

    def forward(self, inputs: LossInputs) -> LossOutput:
        logits, count = self.prediction_logits(inputs), self.config.num_negatives
        if count is None:
            negatives = counts_in_batch(logits, inputs.targets, inputs.mask)
        else:
            classes, device = logits.shape[1], logits.device
            drawn = torch.randint(
                classes,
                (count,),
                generator=inputs.generator,
                device=device if inputs.generator is None else inputs.generator.device,
            ).to(device, non_blocking=True)
            ones = torch.ones_like(drawn).to(logits)
            negatives = torch.zeros_like(logits[0]).scatter_add(0, drawn, ones)
        pairs = (logits, inputs.targets, negatives, inputs.mask)
        loss = type(self).pair_loss(*pairs)
        return self.weighted_sum({self.config.type: loss}, pair_statistics(*pairs)._asdict())

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Cosines to the class texts over the loss's temperature, [B, C]."""
        return inputs.class_cosines / self.config.temperature


class InfoNceObjective(_PairObjective):
    """Cross-entropy over the positive and the negatives. Terms: `infonce`."""

    pair_loss = staticmethod(class_text_info_nce)


class BceObjective(_PairObjective):
    """Binary cross-entropy of every pair. Terms: `bce`."""

    pair_loss = staticmethod(class_text_bce)
