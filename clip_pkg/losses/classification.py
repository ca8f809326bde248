"""The `ce` and `focal` objectives, and the classification part of others.

Legend: B batch, C classes, D embedding size.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from clip_pkg.config.loss_blocks import ClassifierConfig, ClassWeighting, FocalConfig
from clip_pkg.config.losses import CeInfoNceLossConfig, CeLossConfig, FocalLossConfig
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import cross_entropy, focal, weighted_cross_entropy
from clip_pkg.losses.functional.numerics import full_precision


class LinearHead(nn.Linear):
    """A linear layer that computes in float32 or better, also inside autocast."""

    def forward(self, rows: Tensor) -> Tensor:
        """[B, in_features] → [B, out_features]."""
        return _affine(rows, self.weight, self.bias)


@full_precision
def _affine(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(rows, weight.to(rows.dtype), bias.to(rows.dtype))


class Classifier(nn.Module):
    """Class logits [B, C]: scaled cosines to class texts, or a linear layer on the embedding."""

    def __init__(self, kind: Literal["text", "linear"], training_set: TrainingSet) -> None:
        super().__init__()
        self.head = (
            LinearHead(training_set.embed_dim, training_set.num_classes)
            if kind == "linear"
            else None
        )

    def forward(self, inputs: LossInputs) -> Tensor:
        """Compute the logits of one batch."""
        return inputs.class_logits() if self.head is None else self.head(inputs.embeddings)


class ClassLoss(nn.Module):
    """Cross-entropy over the classes, or its focal form (Lin et al. 2017), weighted by class.

    Averaged by the sum of the samples' class weights. Takes soft labels and a mask.

    Args:
        class_weights: [C] or None for all 1.
        focal_form: gamma and alpha of the focal form, or None for cross-entropy.
    """

    class_weights: Tensor | None

    def __init__(
        self, class_weights: Tensor | None = None, focal_form: FocalConfig | None = None
    ) -> None:
        super().__init__()
        self.focal_form = focal_form
        # Moves with the module to the device, but is data of the fold, not state to be restored.
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, inputs: LossInputs) -> Tensor:
        """Loss of logits [B, C], a scalar."""
        labels, mask = inputs.labels, inputs.mask
        if self.focal_form is not None:
            gamma, alpha = self.focal_form.gamma, self.focal_form.alpha
            return focal(logits, labels, self.class_weights, mask, gamma=gamma, alpha=alpha)
        if self.class_weights is None:
            return cross_entropy(logits, labels, mask)
        return weighted_cross_entropy(logits, labels, self.class_weights, mask=mask)


def class_loss(
    weighting: ClassWeighting, training_set: TrainingSet, focal_form: FocalConfig | None = None
) -> ClassLoss:
    """Make the loss with the training set's class weights, or without any as the config says."""
    if weighting == "none":
        return ClassLoss(None, focal_form)
    assert training_set.class_weights is not None, "the fold's class weights are needed"
    return ClassLoss(training_set.class_weights, focal_form)


class ClassificationObjective(Objective):
    """A classifier and its loss, alone; the classifier predicts.

    Part: the name that is given.
    """

    def __init__(self, part: str, classifier: Classifier, loss: ClassLoss) -> None:
        super().__init__({part: 1.0})
        self.part = part
        self.classifier = classifier
        self.loss = loss

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        return self.weighted_sum({self.part: self.loss(self.classifier(inputs), inputs)})

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Logits of the classifier, [B, C]."""
        logits: Tensor = self.classifier(inputs)
        return logits


def cross_entropy_objective(
    config: ClassifierConfig, training_set: TrainingSet
) -> ClassificationObjective:
    """Make a cross-entropy of the classifier and the class weights that a config names."""
    return ClassificationObjective(
        "ce",
        Classifier(config.classifier, training_set),
        class_loss(config.class_weighting, training_set),
    )


def build_ce(config: CeLossConfig, training_set: TrainingSet) -> ClassificationObjective:
    """Make `ce`; it owns its classifier where that is linear."""
    return cross_entropy_objective(config, training_set)


def build_focal(config: FocalLossConfig, training_set: TrainingSet) -> ClassificationObjective:
    """Make `focal`; it owns its classifier where that is linear."""
    form = FocalConfig(gamma=config.gamma, alpha=config.alpha)
    return ClassificationObjective(
        "focal",
        Classifier(config.classifier, training_set),
        class_loss(config.class_weighting, training_set, form),
    )


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
