"""What goes into a training objective and what comes out.

Legend: B images of the batch, C classes, D embedding size.

The engine makes one `LossInputs` per step; the objective adds up its parts; the engine logs them.
Objectives are modules, so that whatever they own (a bias, proxies) reaches the optimiser and the
checkpoint like any other parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from clip_pkg.losses.functional.precision import autocast_off, widened


@dataclass(frozen=True)
class LossInputs:
    """One batch as the losses see it; every float tensor is float32 (never half precision).

    image_features: [B, D], L2-normalised.
    class_features: [C, D], L2-normalised text features, one row per class; the B texts of a batch
        are the rows `class_features[targets]`.
    targets: [B], int64 class of each image.
    logit_scale: scalar 1/temperature, already exponentiated, with gradient when it is learned.
    """

    image_features: Tensor
    class_features: Tensor
    targets: Tensor
    logit_scale: Tensor

    def class_logits(self) -> Tensor:
        """Scaled cosine of each image to each class text, [B, C]; computed once, never in half."""
        return self._class_logits

    @cached_property
    def _class_logits(self) -> Tensor:
        with autocast_off(self.image_features.device):
            image, text = widened(self.image_features), widened(self.class_features)
            return self.logit_scale * (image @ text.T)


@dataclass(frozen=True)
class LossOutput:
    """`total` is what is minimised; `parts` are its unweighted terms by name, all scalars.

    Names are lower case and become the columns `train_<name>_loss` of the history.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class PartLabel:
    """How people see one part of a loss: in log lines, in progress bars, as a TensorBoard tag."""

    label: str
    short: str
    tag: str


class Objective(nn.Module):
    """Base of all training objectives: `forward(LossInputs) -> LossOutput`."""

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Compute the loss of one batch."""
        raise AssertionError(f"{type(self).__name__} has no forward")  # a subclass's omission

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Logits [B, C] whose softmax is the predicted class distribution.

        Class texts decide unless an objective predicts by something it owns.
        """
        return inputs.class_logits()


@dataclass(frozen=True)
class TrainingSet:
    """What an objective may know of the data when it is built.

    class_counts: [C] images per class of the training fold.
    embed_dim: D.
    class_weights: [C], made from the counts by the method that `table.class_weight_method` names;
        None where that is None.
    """

    class_counts: Tensor
    embed_dim: int
    class_weights: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.class_counts.numel())
