"""One pass over the training images, and one over an evaluation split.

Legend: B images of a batch, N images of the split, C classes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clip_pkg.data.batches import Batch
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective
from clip_pkg.metrics.classification import classification_metrics, history_scores
from clip_pkg.models.classifier import Classifier, class_features, evaluation_mode, probabilities
from clip_pkg.models.image_text import ImageTextModel
from clip_pkg.models.precision import Precision
from clip_pkg.training.history import Columns
from clip_pkg.training.loss_scores import MeanScores, RunningScores
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.profiling import Phases, fetched, unmeasured
from clip_pkg.training.ranks import ALONE, Ranks

NEGATIVES_SEED = 0  # of evaluations
AnyBatch = TypeVar("AnyBatch")


# Returns the means so far; waits for the device.
Fetch: TypeAlias = Callable[[], MeanScores]
# Called after each training step with the number of steps done, its loss, and the means so far.
OnStep: TypeAlias = Callable[[int, LossOutput, Fetch], None]


@dataclass(frozen=True)
class Evaluation:
    """Predictions for a set of images, in the order of `index`.

    probabilities: [N, C] float64, rows sum to 1. targets, index: [N] int64; `index` is the
    position in the manifest.
    """

    scores: MeanScores
    probabilities: NDArray[np.float64]
    targets: NDArray[np.int64]
    index: NDArray[np.int64]

    def columns(self, prefix: str, weights: Mapping[str, float]) -> Columns:
        """Columns of `history.json`: losses, then metrics, some of them in percent.

        weights: of the loss's terms in the total.
        """
        metrics = history_scores(classification_metrics(self.probabilities, self.targets))
        return {
            f"{prefix}_loss": self.scores.loss,
            **self.scores.columns(prefix, weights),
            **{f"{prefix}_{name}": value for name, value in metrics.items()},
        }


def train_epoch(
    take_step: Callable[[AnyBatch, RunningScores], LossOutput],
    batches: Iterable[AnyBatch],
    optimisation: Optimisation,
    *,
    device: torch.device,
    phases: Phases = unmeasured,
    on_step: OnStep | None = None,
) -> MeanScores:
    """Train on every batch once.

    take_step: trains on a batch and adds its scores.
    Raises Diverged when the steps stop being finite.
    """
    running = RunningScores()
    for done, batch in enumerate(fetched(batches, phases), start=1):
        output = take_step(batch, running)
        if device.type == "cpu":
            optimisation.check()
        if on_step is not None:
            on_step(done, output, running.fetch)
    optimisation.check()
    return running.fetch()


@torch.inference_mode()
def evaluate(
    model: ImageTextModel,
    objective: Objective,
    batches: Iterable[Batch],
    *,
    precision: Precision,
    loss_batch_size: int,
    loss_order: Tensor,
    needs_tokens: bool,
    device: torch.device,
    ranks: Ranks = ALONE,
    on_step: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Score every image once, in evaluation mode; the model's mode is restored afterwards.

    Contrastive losses depend on which images share a batch, so the loss is computed over batches of
    the training size in the fixed random order `loss_order` (a permutation of N), whatever the
    batches of the forward pass. The last of them may be smaller. Predictions are made batch by
    batch without labels, as with a trained model. Of several ranks each has batches of its share.
    """
    with evaluation_mode(model, objective):
        classifier = Classifier(model, objective, precision, class_features(model, precision))
        found: list[tuple[Tensor, ...]] = []
        for done, batch in enumerate(batches, start=1):
            image_embeddings = classifier.embeddings(batch.images)
            logits = classifier.logits(image_embeddings)
            found.append((image_embeddings, logits, batch.targets, batch.index))
            on_step(done)
        embeddings, logits, targets, index = (
            ranks.joined(torch.cat(values), loss_order.numel())
            for values in zip(*found, strict=True)
        )
        features = F.normalize(embeddings, dim=-1)
        running = RunningScores()
        # The same negatives in every epoch, so that epochs can be compared.
        negatives = torch.Generator(device)
        negatives.manual_seed(NEGATIVES_SEED)
        for chunk in torch.split(loss_order.to(device), loss_batch_size):
            inputs = LossInputs(
                image_features=features[chunk],
                class_features=classifier.class_features,
                targets=targets[chunk],
                logit_scale=model.logit_scale(),
                image_embeddings=embeddings[chunk],
                class_tokens=model.class_tokens(model.first_rows) if needs_tokens else None,
                generator=negatives,
            )
            correct = (logits[chunk].argmax(dim=1) == targets[chunk]).sum()
            running.add(objective(inputs), len(chunk), correct)
        return Evaluation(
            scores=running.fetch(),
            probabilities=probabilities(logits).cpu().double().numpy(),
            targets=targets.cpu().numpy(),
            index=index.cpu().numpy(),
        )
