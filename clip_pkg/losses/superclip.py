"""SuperCLIP: classification plus the CLIP loss, over class texts or, as published, over tokens.

Zhao et al. 2025, "SuperCLIP: CLIP with Simple Classification Supervision".

Legend: B batch, C classes, D embedding size, V vocabulary, L tokens per text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clip_pkg.config.losses import SuperClipLossConfig, SuperClipTokensLossConfig
from clip_pkg.losses.classification import ClassLoss, LinearHead, class_loss
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import class_text_clip, token_classification


class SuperClipObjective(Objective):
    """total = class_loss_weight · class + contrastive_loss_weight · contrastive.

    Both parts share the [B, C] logits: the class texts stand in the place of a token vocabulary.
    `class` takes soft labels; `contrastive` is the `clip` objective's.

    Parts: `class`, `contrastive`.
    """

    def __init__(
        self,
        loss: ClassLoss,
        *,
        class_loss_weight: float = 1.0,
        contrastive_loss_weight: float = 1.0,
    ) -> None:
        super().__init__({"class": class_loss_weight, "contrastive": contrastive_loss_weight})
        self.loss = loss

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        logits = inputs.class_logits()
        contrastive = class_text_clip(logits, inputs.targets, inputs.mask)
        return self.weighted_sum({"class": self.loss(logits, inputs), "contrastive": contrastive})


class SuperClipTokensObjective(Objective):
    """total = class_loss_weight · class + contrastive_loss_weight · contrastive, as published.

    `class`: a linear layer on the image embedding predicts which tokens the image's text has, rare
    tokens weighing more (see `token_classification`). How often each token was seen accumulates
    over the training steps and is part of the state; evaluation counts its own batch on top of it
    and forgets it again. `contrastive` is the `clip` objective's, and predicts.

    Parts: `class`, `contrastive`.

    Args:
        embed_dim: D.
        vocabulary_size: V.
    """

    token_frequency: Tensor
    batches_seen: Tensor

    def __init__(
        self,
        embed_dim: int,
        vocabulary_size: int,
        *,
        class_loss_weight: float = 1.0,
        contrastive_loss_weight: float = 1.0,
    ) -> None:
        super().__init__({"class": class_loss_weight, "contrastive": contrastive_loss_weight})
        self.head = LinearHead(embed_dim, vocabulary_size)
        # float64: the counts of a million steps must not lose the share of one text.
        self.register_buffer("token_frequency", torch.zeros(1, vocabulary_size).double())
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
        contrastive = class_text_clip(inputs.class_logits(), inputs.targets, inputs.mask)
        return self.weighted_sum({"class": terms.class_loss, "contrastive": contrastive})


def build_superclip(config: SuperClipLossConfig, training_set: TrainingSet) -> SuperClipObjective:
    """Make the objective; its class weights are the training set's unless the config wants none."""
    return SuperClipObjective(
        class_loss(config.class_weighting, training_set, config.focal),
        class_loss_weight=config.class_loss_weight,
        contrastive_loss_weight=config.contrastive_loss_weight,
    )


def build_superclip_tokens(
    config: SuperClipTokensLossConfig, training_set: TrainingSet
) -> SuperClipTokensObjective:
    """Make the objective; it owns the layer over the vocabulary of the text encoder."""
    assert training_set.vocabulary_size is not None, "the text encoder has a tokenizer"
    return SuperClipTokensObjective(
        training_set.embed_dim,
        training_set.vocabulary_size,
        class_loss_weight=config.class_loss_weight,
        contrastive_loss_weight=config.contrastive_loss_weight,
    )
