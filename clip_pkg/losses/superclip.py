"""The `superclip` objective: classification over image–class-text logits plus the CLIP loss."""

from __future__ import annotations

from torch import Tensor

from clip_pkg.config.losses import FocalConfig, SuperClipLossConfig
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import (
    class_text_clip,
    cross_entropy,
    focal,
    weighted_cross_entropy,
)


class SuperClipObjective(Objective):
    """total = class_loss_weight · class + contrastive_loss_weight · contrastive.

    Both parts share the [B, C] logits. `class` is the cross-entropy over the classes, weighted by
    class and averaged by Σ w_y, or its focal form (Lin et al. 2017); `contrastive` is the `clip`
    objective's. Zhao et al. 2025, "SuperCLIP: CLIP with Simple Classification Supervision", with
    the class texts in the place of a token vocabulary.

    Parts: `class`, `contrastive`, both unweighted.

    Args:
        class_weights: [C] or None for all 1.
        focal_form: gamma and alpha of the focal form, or None for cross-entropy.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        class_loss_weight: float = 1.0,
        contrastive_loss_weight: float = 1.0,
        class_weights: Tensor | None = None,
        focal_form: FocalConfig | None = None,
    ) -> None:
        super().__init__()
        self.class_loss_weight = class_loss_weight
        self.contrastive_loss_weight = contrastive_loss_weight
        self.focal_form = focal_form
        # Moves with the module to the device, but is data of the fold, not state to be restored.
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        logits = inputs.class_logits()
        class_loss = self._class_loss(logits, inputs.targets)
        contrastive = class_text_clip(logits, inputs.targets)
        return LossOutput(
            total=self.class_loss_weight * class_loss + self.contrastive_loss_weight * contrastive,
            parts={"class": class_loss, "contrastive": contrastive},
        )

    def _class_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.focal_form is not None:
            return focal(
                logits,
                targets,
                self.class_weights,
                gamma=self.focal_form.gamma,
                alpha=self.focal_form.alpha,
            )
        if self.class_weights is None:
            return cross_entropy(logits, targets)
        return weighted_cross_entropy(logits, targets, self.class_weights)


def build_superclip(config: SuperClipLossConfig, training_set: TrainingSet) -> SuperClipObjective:
    """Make the objective; its class weights are the training set's unless the config wants none."""
    weights = None
    if config.class_weighting != "none":
        weights = training_set.class_weights
        assert weights is not None, "superclip needs the training fold's class weights"
    return SuperClipObjective(
        class_loss_weight=config.class_loss_weight,
        contrastive_loss_weight=config.contrastive_loss_weight,
        class_weights=weights,
        focal_form=config.focal,
    )
