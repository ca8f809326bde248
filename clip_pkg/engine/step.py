"""One training step: a batch → its loss → one update of all parameters.

Legend: B images of the batch, C classes, D embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.data.batches import Batch
from clip_pkg.data.mixing import LabelMixing
from clip_pkg.engine.image_side import ImageSide
from clip_pkg.engine.optimisation import Optimisation
from clip_pkg.engine.phases import Phases, unmeasured
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective
from clip_pkg.model import ImageTextModel
from clip_pkg.precision import Precision


@dataclass(frozen=True, eq=False)
class StepOutcome:
    """What a step was about, on the device: the loss, logits [B, C] and the classes [B]."""

    output: LossOutput
    logits: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """Embeds, computes the loss of the batch and applies it; nothing waits for the device.

    prompt_generator, negatives_generator: sources of the prompts that stand for the classes and of
    sampled negatives. phases: what measures the parts of a step.
    """

    model: ImageTextModel
    objective: Objective
    image_side: ImageSide
    optimisation: Optimisation
    precision: Precision
    mixing: LabelMixing
    needs_tokens: bool
    prompt_generator: torch.Generator
    negatives_generator: torch.Generator
    phases: Phases = unmeasured

    def __call__(self, batch: Batch) -> StepOutcome:
        """Train on one batch; one image side and one text forward."""
        model, objective = self.model, self.objective
        with self.phases("data"):
            images, targets, soft_targets = self.mixing(batch.images, batch.targets)
            rows = model.draw_prompts(self.prompt_generator)
        with self.phases("image forward"):
            embedded = self.image_side(images)
        with self.phases("text forward"), self.precision.text_autocast():
            class_features = model.class_features(rows) if model.has_text else None
        inputs = LossInputs(
            image_features=F.normalize(embedded.embeddings, dim=-1),
            class_features=class_features,
            targets=targets,
            logit_scale=model.logit_scale(),
            image_embeddings=embedded.embeddings,
            soft_targets=soft_targets,
            class_tokens=model.class_tokens(rows) if self.needs_tokens else None,
            generator=self.negatives_generator,
        )
        with self.phases("loss"):
            output = objective(inputs)
            with torch.no_grad():
                logits = objective.prediction_logits(inputs)
        self.optimisation.apply(output.total, embedded.backward, self.phases)
        model.clamp_logit_scale()
        return StepOutcome(output, logits, targets)
