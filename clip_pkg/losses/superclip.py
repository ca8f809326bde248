"""SuperCLIP: classification plus the CLIP loss, over class texts or, as published, over tokens.

Zhao et al. 2025, "SuperCLIP: CLIP with Simple Classification Supervision".

Legend: B batch, C classes, D embedding size, V vocabulary, L tokens per text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clip_pkg.config.losses import SuperClipLossConfig, SuperClipTokensLossConfig
from clip_pkg.losses.classification import ClassLoss, FullPrecisionLinear
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import class_text_clip, token_classification


class SuperClipObjective(Objective):
    """total = class_loss_weight · class + contrastive_loss_weight · contrastive.

    Both terms share the [B, C] logits: the class texts replace the token vocabulary. `class` uses
    soft labels; `contrastive` is the `clip` objective's.

    Terms: `class`, `contrastive`.
    """

    def __init__(self, config: SuperClipLossConfig, training_set: TrainingSet) -> None:
        super().__init__(
            {"class": config.class_loss_weight, "contrastive": config.contrastive_loss_weight}
        )
        self.loss = ClassLoss(config.class_weighting, training_set, config.focal)

    def forward(self, inputs: LossInputs) -> LossOutput:
        logits = inputs.class_logits
        contrastive = class_text_clip(logits, inputs.targets, inputs.mask)
        return self.weighted_sum({"class": self.loss(logits, inputs), "contrastive": contrastive})


class SuperClipTokensObjective(Objective):
    """total = class_loss_weight · class + contrastive_loss_weight · contrastive, as published.

    `class`: a linear layer on the image embedding predicts which tokens the image's text has, rare
    tokens weighing more (see `token_classification`). Token counts accumulate over the training
    steps and are part of the state; evaluation adds its own batch and discards that count.
    `contrastive` is the `clip` objective's, and predicts.

    Terms: `class`, `contrastive`.
    """

    token_frequency: Tensor
    batches_seen: Tensor

    def __init__(self, config: SuperClipTokensLossConfig, training_set: TrainingSet) -> None:
        super().__init__(
            {"class": config.class_loss_weight, "contrastive": config.contrastive_loss_weight}
        )
        vocabulary = training_set.vocabulary_size
        assert vocabulary is not None, "the text encoder has a tokenizer; the config checks it"
        self.head = FullPrecisionLinear(training_set.embed_dim, vocabulary)
        # float64: the counts of a million steps must not lose the share of one text.
        self.register_buffer("token_frequency", torch.zeros(1, vocabulary).double())
        self.register_buffer("batches_seen", torch.zeros(1, 1).double())

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch and, in training mode, count its tokens."""
        assert inputs.class_tokens is not None, "this loss needs the tokens of the class texts"
        terms = token_classification(
            self.head(inputs.embeddings),
            inputs.class_tokens[inputs.targets],
            inputs.mask,
            cap_fq_in=self.token_frequency,
            num_samples_in=self.batches_seen,
        )
        if self.training:
            self.token_frequency.copy_(terms.cap_fq_out)
            self.batches_seen.copy_(terms.num_samples_out)
        contrastive = class_text_clip(inputs.class_logits, inputs.targets, inputs.mask)
        return self.weighted_sum({"class": terms.class_loss, "contrastive": contrastive})
