"""The `ce`, `focal` and `ce_infonce` objectives, and the classification term of others.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from clip_pkg.config.loss_blocks import ClassifierConfig, ClassWeighting, FocalConfig
from clip_pkg.config.losses import CeInfoNceLossConfig, FocalLossConfig
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import cross_entropy, focal, weighted_cross_entropy
from clip_pkg.losses.functional.numerics import full_precision


class FullPrecisionLinear(nn.Linear):
    """A linear layer that computes in float32 or better, also inside autocast."""

    @full_precision
    def forward(self, rows: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        return F.linear(rows, self.weight.to(rows.dtype), self.bias.to(rows.dtype))


class ClassLogits(nn.Module):
    """Class logits [B, C]: scaled cosines to class texts, or a linear layer on the embedding."""

    def __init__(self, kind: Literal["text", "linear"], training_set: TrainingSet) -> None:
        super().__init__()
        sizes = (training_set.embed_dim, training_set.num_classes)
        self.head = FullPrecisionLinear(*sizes) if kind == "linear" else None

    def forward(self, inputs: LossInputs) -> Tensor:
        return inputs.class_logits if self.head is None else self.head(inputs.embeddings)


class ClassLoss(nn.Module):
    """Cross-entropy over the classes, or its focal form (Lin et al. 2017), weighted by class.

    Averaged by the sum of the samples' class weights. Uses soft labels and the mask.

    Args:
        weighting: `none` for no class weights; otherwise those of the training set are used.
        training_set: has the class weights.
        focal_form: gamma and alpha of the focal form, or None for cross-entropy.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        weighting: ClassWeighting,
        training_set: TrainingSet,
        focal_form: FocalConfig | None = None,
    ) -> None:
        super().__init__()
        self.focal_form = focal_form
        weights = None if weighting == "none" else training_set.class_weights
        assert weighting == "none" or weights is not None, "the fold's class weights are needed"
        # Moves with the module to the device, but belongs to the fold, not to the state.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, inputs: LossInputs) -> Tensor:
        """Loss of logits [B, C], a scalar."""
        labels, mask = inputs.labels, inputs.mask
        if self.focal_form is not None:
            gamma, alpha = self.focal_form.gamma, self.focal_form.alpha
            return focal(logits, labels, self.class_weights, mask, gamma=gamma, alpha=alpha)
        if self.class_weights is None:
            return cross_entropy(logits, labels, mask)
        return weighted_cross_entropy(logits, labels, self.class_weights, mask=mask)


class ClassificationObjective(Objective):
    """Cross-entropy of a classifier, which predicts.

    Terms: `ce`, or another name for another form.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        training_set: TrainingSet,
        *,
        term: str = "ce",
        focal_form: FocalConfig | None = None,
    ) -> None:
        super().__init__({term: 1.0})
        self.term = term
        self.classifier = ClassLogits(config.classifier, training_set)
        self.loss = ClassLoss(config.class_weighting, training_set, focal_form)

    def forward(self, inputs: LossInputs) -> LossOutput:
        return self.weighted_sum({self.term: self.loss(self.classifier(inputs), inputs)})

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        logits: Tensor = self.classifier(inputs)
        return logits


class FocalObjective(ClassificationObjective):
    """Focal form of the cross-entropy of a classifier (Lin et al. 2017). Terms: `focal`."""

    def __init__(self, config: FocalLossConfig, training_set: TrainingSet) -> None:
        form = FocalConfig(gamma=config.gamma, alpha=config.alpha)
        super().__init__(config, training_set, term="focal", focal_form=form)


class CeInfoNceObjective(Objective):
    """total = CE(logits [B, C]) + contrast_weight · InfoNCE(image [B, D], class texts [C, D]).

    InfoNCE: each image picks its class's text among those of all C classes, by cosine over a fixed
    temperature (van den Oord et al. 2018, equation 4, with the class texts as candidates). With
    mixed labels it uses the class with the largest share; CE uses the shares. The classifier of CE
    predicts.

    Terms: `ce`, `infonce`.
    """

    def __init__(self, config: CeInfoNceLossConfig, training_set: TrainingSet) -> None:
        super().__init__({"ce": 1.0, "infonce": config.contrast_weight})
        self.classification = ClassificationObjective(config, training_set)
        self.temperature = config.infonce_temp

    def forward(self, inputs: LossInputs) -> LossOutput:
        logits = inputs.class_cosines / self.temperature
        return self.weighted_sum(
            {
                **self.classification(inputs).terms,
                "infonce": cross_entropy(logits, inputs.targets, inputs.mask),
            }
        )

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        return self.classification.prediction_logits(inputs)
