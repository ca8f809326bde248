"""Images → class probabilities, in the evaluation of a fold and in inference.

Legend: B images, C classes, D embedding size, H width of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.config.schema import RunConfig
from clip_pkg.losses.class_weights import class_weights
from clip_pkg.losses.contract import LossInputs, Objective, TrainingSet
from clip_pkg.losses.functional.numerics import widest_float
from clip_pkg.losses.registry import build_objective
from clip_pkg.models.image_text import ImageTextModel
from clip_pkg.models.precision import Precision


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model and the objective that defines its logits, both in evaluation mode.

    class_features: [C, D], or None for a model without texts.
    """

    model: ImageTextModel
    objective: Objective
    precision: Precision
    class_features: Tensor | None

    def embeddings(self, images: Tensor) -> Tensor:
        """Embeddings [B, D] float32, not normalised, of normalised pixels [B, 3, H, H]."""
        with self.precision.autocast():
            return self.model.image_embeddings(images)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Embeddings [B, D] → logits [B, C], float32."""
        inputs = LossInputs(
            image_features=F.normalize(embeddings, dim=-1),
            class_features=self.class_features,
            # Predictions must not depend on labels.
            targets=embeddings.new_zeros(embeddings.shape[0], dtype=torch.int64),
            logit_scale=self.model.logit_scale(),
            image_embeddings=embeddings,
        )
        return self.objective.prediction_logits(inputs)


def probabilities(logits: Tensor) -> Tensor:
    """Logits [B, C] → [B, C], rows sum to 1; float64 where the device has it."""
    return logits.to(widest_float(logits.device)).softmax(dim=1)


def class_features(model: ImageTextModel, precision: Precision) -> Tensor | None:
    """Class features [C, D] float32; None for a model without texts."""
    assert not model.training, "dropout would affect the class features"
    with precision.text_autocast():
        return model.mean_class_features() if model.has_text else None


@contextmanager
def evaluation_mode(model: ImageTextModel, objective: Objective) -> Iterator[None]:
    """Evaluation mode for both; the model's mode is restored afterwards."""
    was_training = model.training
    model.eval()
    objective.eval()
    try:
        yield
    finally:
        model.train(was_training)
        objective.train(was_training)


def objective_for(
    config: RunConfig, class_counts: Sequence[int], vocabulary_size: int | None
) -> Objective:
    """Build the objective of a config, on the CPU.

    class_counts: images per class of the training fold. vocabulary_size: the model's. Random
    weights come from torch's global generator.
    """
    assert vocabulary_size is not None or not config.needs_tokens, "checked by the config"
    method = config.loss.class_weight_method(config.weight_method)
    weights = None
    if method is not None:
        weights = torch.from_numpy(
            class_weights(class_counts, method, config.weight_smooth_factor)
        ).float()
    training_set = TrainingSet(
        torch.tensor(class_counts), config.embed_dim, weights, vocabulary_size
    )
    return build_objective(config.loss, training_set, config.aux_losses)
