"""One pass over the training fold, and one over a validation fold.

Legend: B images of a batch, N images of the fold, C classes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clip_pkg.data.batches import Batch
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective
from clip_pkg.models.classifier import Classifier, class_features, evaluation_mode, probabilities
from clip_pkg.models.image_text import ImageTextModel
from clip_pkg.models.precision import Precision
from clip_pkg.training.loss_scores import LossScores, RunningSums, loss_scores, loss_sums
from clip_pkg.training.phases import fetched
from clip_pkg.training.ranks import ALONE, Ranks
from clip_pkg.training.step import TrainingStep

NEGATIVES_SEED = 0  # of evaluations
# Called after each batch with the number done and, in training, a way to fetch the means so far.
OnStep = Callable[[int, "Callable[[], EpochScores] | None"], None]


@dataclass(frozen=True)
class EpochScores(LossScores):
    """Means over the images seen.

    accuracy: a fraction; of mixed images, those whose larger share was found.
    """

    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """A model's answers on a set of images, in the order of `index`.

    probabilities: [N, C] float64, rows sum to 1. targets, index: [N] int64; `index` is the
    position in the manifest.
    """

    scores: EpochScores
    probabilities: NDArray[np.float64]
    targets: NDArray[np.int64]
    index: NDArray[np.int64]


class RunningScores:
    """`EpochScores` of the batches so far; sums stay on the device and are fetched once."""

    def __init__(self) -> None:
        self._sums = RunningSums()

    def add(self, output: LossOutput, logits: Tensor, targets: Tensor) -> None:
        """Count one batch: its mean loss and parts (scalars), and logits [B, C]."""
        count = int(targets.numel())
        correct = (logits.detach().argmax(dim=1) == targets).sum().double()
        self._sums.add({**loss_sums(output, count), "correct": correct}, count)

    def fetch(self) -> EpochScores:
        """Return means so far. Waits for the device."""
        means = self._sums.means()
        return EpochScores(**vars(loss_scores(means)), accuracy=means["correct"])


def train_epoch(
    step: TrainingStep,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    on_output: Callable[[LossOutput], None],
    on_step: OnStep,
) -> EpochScores:
    """Train on every batch once.

    `on_output` gets the loss of each step while it still is on the device.
    Raises Diverged when the steps stop being finite.
    """
    step.model.train()
    step.objective.train()
    running = RunningScores()
    for done, batch in enumerate(fetched(batches, step.phases), start=1):
        # A metric that leaves the model in evaluation mode would freeze BatchNorm and dropout
        # for the rest of the epoch, and nobody would see it.
        assert step.model.training, "the model left training mode within an epoch"
        assert step.objective.training, "the loss left training mode within an epoch"
        outcome = step(batch)
        running.add(outcome.output, outcome.logits, outcome.targets)
        on_output(outcome.output)
        if device.type == "cpu":
            step.optimisation.check()
        on_step(done, running.fetch)
    step.optimisation.check()
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
    on_step: OnStep | None = None,
) -> Evaluation:
    """Score every image once, in evaluation mode; the model's mode is put back afterwards.

    Contrastive losses depend on who shares a batch, so the loss is computed over batches of the
    training size in the fixed mixed order `loss_order` (a permutation of N), whatever batches the
    images came in. The last of them may be smaller. Predictions are made batch by batch as the
    images come, without labels, as they are with a trained model. Of several ranks each has batches
    of its share of the images.
    """
    with evaluation_mode(model, objective):
        classifier = Classifier(model, objective, precision, class_features(model, precision))
        embeddings, logits, targets, index = (
            ranks.joined(values, loss_order.numel())
            for values in _all_images(classifier, batches, on_step)
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
            running.add(objective(inputs), logits[chunk], targets[chunk])
        return Evaluation(
            scores=running.fetch(),
            probabilities=probabilities(logits).cpu().numpy(),
            targets=targets.cpu().numpy(),
            index=index.cpu().numpy(),
        )


def _all_images(
    classifier: Classifier, batches: Iterable[Batch], on_step: OnStep | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings [N, D], logits [N, C], targets [N] and index [N] of all batches."""
    embeddings, logits, targets, index = [], [], [], []
    for done, batch in enumerate(batches, start=1):
        embeddings.append(classifier.embeddings(batch.images))
        logits.append(classifier.logits(embeddings[-1]))
        targets.append(batch.targets)
        index.append(batch.index)
        if on_step is not None:
            on_step(done, None)
    return torch.cat(embeddings), torch.cat(logits), torch.cat(targets), torch.cat(index)
