"""The `ce_infonce` objective: cross-entropy plus a contrast of image features with class texts.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

from torch import Tensor

from clip_pkg.config.losses import CeInfoNceLossConfig
from clip_pkg.losses.classification import ClassificationObjective, cross_entropy_objective
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import cross_entropy


class CeInfoNceObjective(Objective):
    """total = CE(logits [B, C]) + contrast_weight · InfoNCE(image [B, D], class texts [C, D]).

    InfoNCE: each image picks its class's text among those of all C classes, by cosine over a fixed
    temperature (van den Oord et al. 2018, equation 4, with the class texts as candidates). It looks
    at the class with the largest share where labels are mixed; CE takes the shares. The classifier
    of CE predicts.

    Parts: `ce`, `infonce`.
    """

    def __init__(
        self,
        classification: ClassificationObjective,
        *,
        contrast_weight: float = 0.5,
        temperature: float = 0.07,
    ) -> None:
        super().__init__({"ce": 1.0, "infonce": contrast_weight})
        self.classification = classification
        self.temperature = temperature

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        logits = inputs.class_cosines() / self.temperature
        return self.weighted_sum(
            {
                **self.classification(inputs).parts,
                "infonce": cross_entropy(logits, inputs.targets, inputs.mask),
            }
        )

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Logits of the classifier, [B, C]."""
        return self.classification.prediction_logits(inputs)


def build_ce_infonce(config: CeInfoNceLossConfig, training_set: TrainingSet) -> CeInfoNceObjective:
    """Make the objective; it owns its classifier where that is linear."""
    return CeInfoNceObjective(
        cross_entropy_objective(config, training_set),
        contrast_weight=config.contrast_weight,
        temperature=config.infonce_temp,
    )
