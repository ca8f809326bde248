"""The `infonce` and `bce` objectives: one positive text per image against negatives.

Legend: B batch, C classes, N sampled negatives.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clip_pkg.config.losses import BceLossConfig, InfoNceLossConfig
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import (
    class_counts,
    class_text_bce,
    class_text_info_nce,
    pair_statistics,
)

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
