"""The `clip` objective: symmetric image–text contrastive loss over the batch."""

from __future__ import annotations

from clip_pkg.config.losses import ClipLossConfig
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.functional import class_text_clip


class ClipObjective(Objective):
    """Images against the class texts of their batch (Radford et al. 2021, figure 3).

    There is nothing to choose by `positives` at this point: a class has one text, and then
    `same_class` and `diagonal` are one and the same function (see `class_text_clip`).

    Parts: `contrastive`.
    """

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        contrastive = class_text_clip(inputs.class_logits(), inputs.targets)
        return LossOutput(total=contrastive, parts={"contrastive": contrastive})


def build_clip(config: ClipLossConfig, training_set: TrainingSet) -> ClipObjective:
    """Make the objective; it has no settings and no state."""
    del config, training_set
    return ClipObjective()
