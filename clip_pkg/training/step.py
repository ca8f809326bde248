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
from clip_pkg.training.image_forward import ImageSide
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.phases import Phases, unmeasured


@dataclass(frozen=True, eq=False)
class StepOutcome:
    """What a step was about, on the device: the loss, logits [B, C] and the classes [B]."""

    output: LossOutput
    logits: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class StepInputs:
    """What a step is about once the host has decided everything, on the device.

    images: [B, 3, H, H], or their features [B, F] of a frozen encoder. targets: int64 [B].
    soft_targets: [B, C], or None where labels are hard. prompt_rows: int64 [C], the prompts that
    stand for the classes.
    """

    images: Tensor
    targets: Tensor
    soft_targets: Tensor | None
    prompt_rows: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """All there are, in a fixed order."""
        found = (self.images, self.targets, self.soft_targets, self.prompt_rows)
        return tuple(one for one in found if one is not None)


Apply: TypeAlias = Callable[[Tensor, Callable[[Tensor], None], Phases], None]


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """A step that was recorded once and is replayed, from tensors that stay where they are.

    inputs: what it reads. replay: does it again; what it returns is overwritten by the next one.
    """

    inputs: StepInputs
    optimisation: Optimisation
    replay: Callable[[], StepOutcome]

    def fits(self, inputs: StepInputs) -> bool:
        """Whether it was recorded for so many images."""
        return inputs.images.shape == self.inputs.images.shape

    def __call__(self, inputs: StepInputs) -> StepOutcome:
        """Take the step."""
        for mine, given in zip(self.inputs.tensors(), inputs.tensors(), strict=True):
            mine.copy_(given)
        return self.optimisation.replay(self.replay)


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """Embeds, computes the loss of the batch and applies it; nothing waits for the device.

    prompt_generator, negatives_generator: sources of the prompts that stand for the classes and of
    sampled negatives. phases: what measures the parts of a step. recorded: the same step as one
    command to the device, for batches that fit it.
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
    recorded: RecordedStep | None = None

    def __call__(self, batch: Batch) -> StepOutcome:
        """Train on one batch; one image side and one text forward.

        What is returned may be overwritten by the next step.
        """
        inputs = self.prepare(batch)
        if self.recorded is not None and self.recorded.fits(inputs):
            return self.recorded(inputs)
        return self.compute(inputs, self.optimisation.apply)

    def prepare(self, batch: Batch) -> StepInputs:
        """Decide what chance decides on the host."""
        with self.phases("data"):
            images, targets, soft_targets = self.mixing(batch.images, batch.targets)
            rows = self.model.draw_prompts(self.prompt_generator)
        return StepInputs(images, targets, soft_targets, rows)

    def compute(self, inputs: StepInputs, apply: Apply) -> StepOutcome:
        """Do the device's part; `apply` carries the loss to the parameters."""
        model, objective, rows = self.model, self.objective, inputs.prompt_rows
        with self.phases("image forward"):
            embedded = self.image_side(inputs.images)
        with self.phases("text forward"), self.precision.text_autocast():
            class_features = model.class_features(rows) if model.has_text else None
        seen = LossInputs(
            image_features=F.normalize(embedded.embeddings, dim=-1),
            class_features=class_features,
            targets=inputs.targets,
            logit_scale=model.logit_scale(),
            image_embeddings=embedded.embeddings,
            soft_targets=inputs.soft_targets,
            class_tokens=model.class_tokens(rows) if self.needs_tokens else None,
            generator=self.negatives_generator,
        )
        with self.phases("loss"):
            output = objective(seen)
            with torch.no_grad():
                logits = objective.prediction_logits(seen)
        apply(output.total, embedded.backward, self.phases)
        model.clamp_logit_scale()
        return StepOutcome(output, logits, inputs.targets)
