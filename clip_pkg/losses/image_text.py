"""Contrastive objectives between images and class texts: `clip`, `siglip`, `supcon`.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from clip_pkg.config.losses import (
    BceLossConfig,
    ClipLossConfig,
    InfoNceLossConfig,
    SigLipLossConfig,
    SupConLossConfig,
)
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import (
    class_counts,
    class_text_bce,
    class_text_clip,
    class_text_info_nce,
    class_text_siglip,
    pair_statistics,
    supcon,
)


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


PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class PairObjective(Objective):
    """A loss of the cosine of each image and its class's text against those of negative texts.

    Logits are cosines over a fixed temperature, in the prediction as well. Negatives are the texts
    of the batch, or N texts drawn uniformly from all classes, with replacement, for the whole
    batch. A text of an image's own class never counts as its negative.

    Part: the name that is given. Statistics: mean and standard deviation of the logits of positive
    and of negative pairs.
    """

    def __init__(
        self, part: str, loss: PairLoss, *, temperature: float = 0.2, num_negatives: int | None
    ) -> None:
        super().__init__({part: 1.0})
        self.part = part
        self.loss = loss
        self.temperature = temperature
        self.num_negatives = num_negatives

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        logits = self.prediction_logits(inputs)
        pairs = (logits, inputs.targets, self._negatives(logits, inputs), inputs.mask)
        return self.weighted_sum({self.part: self.loss(*pairs)}, pair_statistics(*pairs)._asdict())

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Cosines to the class texts over the loss's temperature, [B, C]."""
        return inputs.class_cosines() / self.temperature

    def _negatives(self, logits: Tensor, inputs: LossInputs) -> Tensor:
        """How often each class's text is among the negatives, [C]."""
        if self.num_negatives is None:
            return class_counts(logits, inputs.targets, inputs.mask)
        classes, device = logits.shape[1], logits.device
        drawn = torch.randint(
            classes,
            (self.num_negatives,),
            generator=inputs.generator,
            device=device if inputs.generator is None else inputs.generator.device,
        ).to(device, non_blocking=True)
        return torch.zeros_like(logits[0]).scatter_add(0, drawn, torch.ones_like(drawn).to(logits))


def build_infonce(config: InfoNceLossConfig, training_set: TrainingSet) -> PairObjective:
    """Make `infonce`; it has no state."""
    del training_set
    return PairObjective(
        "infonce",
        class_text_info_nce,
        temperature=config.temperature,
        num_negatives=config.num_negatives,
    )


def build_bce(config: BceLossConfig, training_set: TrainingSet) -> PairObjective:
    """Make `bce`; it has no state."""
    del training_set
    return PairObjective(
        "bce",
        class_text_bce,
        temperature=config.temperature,
        num_negatives=config.num_negatives,
    )
