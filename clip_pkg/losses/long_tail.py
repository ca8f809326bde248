"""Objectives for long-tailed classes, which take the counts of the training fold into the loss.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from clip_pkg.config.losses import (
    BalancedSoftmaxLossConfig,
    LdamLossConfig,
    LogitAdjustLossConfig,
)
from clip_pkg.losses.class_weights import EFFECTIVE_NUMBER_BETA as BETA
from clip_pkg.losses.classification import ClassLogits
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import adjusted_cross_entropy, ldam
from clip_pkg.losses.functional.numerics import unit, widened


class AdjustedSoftmaxObjective(Objective):
    """Cross-entropy of logits shifted by the log frequencies of the classes.

    The logits without the shift predict. Terms: the type of the config.
    """

    class_counts: Tensor

    def __init__(
        self,
        config: LogitAdjustLossConfig | BalancedSoftmaxLossConfig,
        training_set: TrainingSet,
    ) -> None:
        super().__init__({config.type: 1.0})
        self.config = config
        self.classifier = ClassLogits(config.classifier, training_set)
        self.register_buffer("class_counts", training_set.class_counts, persistent=False)

    def forward(self, inputs: LossInputs) -> LossOutput:
        loss = adjusted_cross_entropy(
            self.classifier(inputs),
            inputs.labels,
            self.class_counts,
            inputs.mask,
            tau=self.config.tau,
        )
        return self.weighted_sum({self.config.type: loss})

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        logits: Tensor = self.classifier(inputs)
        return logits


class LdamObjective(Objective):
    """Margins that are larger for rarer classes, and class weights in the last epochs.

    Cosines are those to the class texts or, with `classifier` `linear`, to learned class vectors;
    scaled, they predict. Terms: `ldam`.
    """

    class_counts: Tensor
    later_weights: Tensor
    epoch_weights: Tensor

    def __init__(self, config: LdamLossConfig, training_set: TrainingSet) -> None:
        super().__init__({"ldam": 1.0})
        self.config = config
        self.class_vectors = None
        if config.classifier == "linear":
            vectors = torch.empty(training_set.num_classes, training_set.embed_dim)
            self.class_vectors = nn.Parameter(vectors)
            nn.init.xavier_uniform_(self.class_vectors)
        counts = training_set.class_counts
        # Cui et al. 2019, equation 2, scaled to mean 1.
        effective = torch.expm1(counts.clamp(min=1) * math.log(BETA)) / (BETA - 1)
        later = (1 / effective) / (1 / effective).mean()
        self.register_buffer("class_counts", counts, persistent=False)
        self.register_buffer("later_weights", later, persistent=False)
        self.register_buffer("epoch_weights", torch.ones_like(later), persistent=False)

    def start_epoch(self, done: float) -> None:
        """Weigh classes from `reweight_from` of the epochs on (Cao et al. 2019, section 3.3)."""
        if done >= self.config.reweight_from:
            self.epoch_weights.copy_(self.later_weights)
        else:
            self.epoch_weights.fill_(1.0)

    def forward(self, inputs: LossInputs) -> LossOutput:
        loss = ldam(
            self._cosines(inputs),
            inputs.targets,
            self.class_counts,
            inputs.mask,
            max_margin=self.config.max_margin,
            scale=self.config.scale,
            # Validation losses of all epochs can be compared.
            class_weights=self.epoch_weights if self.training else None,
        )
        return self.weighted_sum({"ldam": loss})

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        return self.config.scale * self._cosines(inputs)

    def _cosines(self, inputs: LossInputs) -> Tensor:
        if self.class_vectors is None:
            return inputs.class_cosines
        images = widened(inputs.image_features)
        return images @ unit(self.class_vectors.to(images.dtype)).T
