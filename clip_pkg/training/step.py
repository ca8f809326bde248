"""One training step: a batch → its loss → one update of all parameters.

Legend: B images of the batch, C classes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.data.augmentation import LabelMixing
from clip_pkg.data.batches import Batch
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective
from clip_pkg.models.image_text import ImageTextModel
from clip_pkg.models.precision import Precision
from clip_pkg.training.image_forward import Backward, Embed
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.profiling import Phases, unmeasured


@dataclass(frozen=True, eq=False)
class StepInputs:
    """Inputs of a step once the host has drawn its random choices, on the device.

    images: [B, 3, H, H], or their features [B, F] of a frozen encoder. targets: int64 [B].
    soft_targets: [B, C], or None where labels are hard. prompt_rows: int64 [C], the prompt of each
    class.
    """

    images: Tensor
    targets: Tensor
    soft_targets: Tensor | None
    prompt_rows: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        found = (self.images, self.targets, self.soft_targets, self.prompt_rows)
        return tuple(one for one in found if one is not None)


@dataclass(frozen=True, eq=False)
class StepOutcome:
    """Outcome of a step, on the device: the loss, logits [B, C] and the classes [B]."""

    output: LossOutput
    logits: Tensor
    targets: Tensor


Apply: TypeAlias = Callable[[Tensor, Backward, Phases], None]


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """Embeds a batch, computes its loss and applies it; nothing waits for the device.

    prompt_generator, negatives_generator: sources of the classes' prompts and of sampled negatives.
    phases: measure a step by phase.
    """

    model: ImageTextModel
    objective: Objective
    embed: Embed
    optimisation: Optimisation
    precision: Precision
    mixing: LabelMixing
    needs_tokens: bool
    prompt_generator: torch.Generator
    negatives_generator: torch.Generator
    phases: Phases = unmeasured

    def __call__(self, batch: Batch) -> StepOutcome:
        """Train on one batch: one forward pass of its images and one of the class texts."""
        return self.compute(self.prepare(batch), self.optimisation.apply)

    def prepare(self, batch: Batch) -> StepInputs:
        """Draw mixed labels and prompts, on the host."""
        # A metric that leaves the model in evaluation mode would freeze BatchNorm and dropout for
        # the rest of the epoch, unnoticed.
        assert self.model.training, "the model left training mode within an epoch"
        assert self.objective.training, "the loss left training mode within an epoch"
        with self.phases("data"):
            images, targets, soft_targets = self.mixing(batch.images, batch.targets)
            rows = self.model.draw_prompts(self.prompt_generator)
        return StepInputs(images, targets, soft_targets, rows)

    def compute(self, inputs: StepInputs, apply: Apply) -> StepOutcome:
        """Compute the device's share; `apply` updates the parameters from the loss."""
        model, objective, rows = self.model, self.objective, inputs.prompt_rows
        with self.phases("image forward"):
            embeddings, backward = self.embed(inputs.images)
        with self.phases("text forward"), self.precision.text_autocast():
            class_features = model.class_features(rows) if model.has_text else None
        seen = LossInputs(
            image_features=F.normalize(embeddings, dim=-1),
            class_features=class_features,
            targets=inputs.targets,
            logit_scale=model.logit_scale(),
            image_embeddings=embeddings,
            soft_targets=inputs.soft_targets,
            class_tokens=model.class_tokens(rows) if self.needs_tokens else None,
            generator=self.negatives_generator,
        )
        with self.phases("loss"):
            output = objective(seen)
            with torch.no_grad():
                logits = objective.prediction_logits(seen)
        apply(output.total, backward, self.phases)
        model.clamp_logit_scale()
        return StepOutcome(output, logits, inputs.targets)
