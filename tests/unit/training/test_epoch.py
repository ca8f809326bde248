"""One pass over batches: modes, what is counted, what is asked of the model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from clip_pkg.config.losses import ClipLossConfig, SuperClipLossConfig
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import LabelMixing
from clip_pkg.data.batches import Batch
from clip_pkg.losses.contract import LossInputs, LossOutput, Objective, TrainingSet
from clip_pkg.losses.registry import build_objective
from clip_pkg.models.image_text import ImageTextModel, build_model
from clip_pkg.models.precision import Precision
from clip_pkg.training.epoch import evaluate, train_epoch
from clip_pkg.training.image_forward import WholeBatch
from clip_pkg.training.loss_scores import MeanScores, RunningScores
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.step import TrainingStep
from support.tiny import TINY

CPU = torch.device("cpu")
FLOAT32 = Precision("cpu", None)
CLASSES = ("a", "b", "c")


@pytest.fixture
def model() -> ImageTextModel:
    torch.manual_seed(0)
    return build_model(RunConfig.model_validate(TINY), CLASSES, [["a"], ["b"], ["c"]])


def batches(count: int = 3, size: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            images=torch.randn(size, 3, 32, 32, generator=generator),
            targets=torch.randint(3, (size,), generator=generator),
            index=torch.arange(number * size, (number + 1) * size),
        )
        for number in range(count)
    ]


def objective(config: ClipLossConfig | SuperClipLossConfig | None = None) -> Objective:
    return build_objective(
        config or ClipLossConfig(), TrainingSet(torch.tensor([4, 4, 4]), 16, torch.ones(3))
    )


def train(model: ImageTextModel, loss: Objective, lr: float = 0.0) -> MeanScores:
    groups = [{"params": [p for p in model.parameters() if p.requires_grad], "lr": lr}]
    step = TrainingStep(
        model,
        loss,
        WholeBatch(model, FLOAT32),
        Optimisation(groups, precision=FLOAT32, total_steps=9, warmup_steps=1, grad_clip_norm=None),
        precision=FLOAT32,
        mixing=LabelMixing(3),
        needs_tokens=False,
        prompt_generator=torch.Generator().manual_seed(0),
        negatives_generator=torch.Generator().manual_seed(0),
    )
    model.train()

    def take_step(batch: Batch, running: RunningScores) -> LossOutput:
        outcome = step(batch)
        correct = (outcome.logits.argmax(dim=1) == outcome.targets).sum()
        running.add(outcome.output, len(outcome.targets), correct)
        return outcome.output

    return train_epoch(take_step, batches(), step.optimisation, device=CPU)


def look(model: ImageTextModel, loss: Objective, sizes: tuple[int, int] = (3, 4)) -> object:
    return evaluate(
        model,
        loss,
        batches(*sizes),
        precision=FLOAT32,
        loss_batch_size=5,
        loss_order=torch.arange(12).flip(0),
        needs_tokens=False,
        device=CPU,
    )


class SwitchingObjective(Objective):
    """A loss whose accuracy leaves the model in evaluation mode, as careless metrics do."""

    def __init__(self, model: ImageTextModel) -> None:
        super().__init__()
        self._inner = objective()
        self._models = [model]

    def forward(self, inputs: LossInputs) -> object:
        return self._inner(inputs)

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        self._models[0].eval()
        return inputs.class_logits


def test_a_metric_that_switches_the_model_to_evaluation_mode_is_noticed(
    model: ImageTextModel,
) -> None:
    with pytest.raises(AssertionError, match="left training mode"):
        train(model, SwitchingObjective(model))


def test_every_train_step_runs_in_training_mode_and_every_look_in_evaluation_mode(
    model: ImageTextModel,
) -> None:
    seen: list[bool] = []
    model.image_encoder.register_forward_hook(lambda module, *_: seen.append(module.training))
    train(model, objective())
    look(model, objective())
    train(model, objective())
    assert seen == [True] * 3 + [False] * 3 + [True] * 3
    assert model.training


def test_looking_changes_nothing(model: ImageTextModel) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    look(model, objective())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_image_forward_per_step_and_one_text_forward(model: ImageTextModel) -> None:
    calls = {"image": 0, "text": 0}

    def count(kind: str) -> object:
        def hook(*_: object) -> None:
            calls[kind] += 1

        return hook

    model.image_encoder.register_forward_hook(count("image"))
    model.text_encoder.register_forward_hook(count("text"))
    train(model, objective(SuperClipLossConfig()))
    assert calls == {"image": 3, "text": 3}


def test_training_scores_are_image_weighted_means_of_the_same_forward(
    model: ImageTextModel,
) -> None:
    loss = objective(SuperClipLossConfig(class_loss_weight=2.0))
    scores = train(model, loss)  # learning rate 0: the model stays as it was
    model.train()
    totals, correct = [], 0
    for batch in batches():
        rows = torch.arange(3)
        inputs = LossInputs(
            model.image_features(batch.images),
            model.class_features(rows),
            batch.targets,
            model.logit_scale(),
        )
        totals.append(loss(inputs).total.item())
        correct += int((inputs.class_logits.argmax(1) == batch.targets).sum())
    assert scores.loss == pytest.approx(np.mean(totals), rel=1e-5)
    assert scores.accuracy == pytest.approx(correct / 12)
    assert scores.loss == pytest.approx(
        2 * scores.terms["class"] + scores.terms["contrastive"], rel=1e-6
    )


def test_validation_loss_does_not_depend_on_the_batches_images_came_in(
    model: ImageTextModel,
) -> None:
    whole = Batch(*(torch.cat(parts) for parts in zip(*map(_fields, batches()), strict=True)))
    first = look(model, objective())
    second = evaluate(
        model,
        objective(),
        [whole],
        precision=FLOAT32,
        loss_batch_size=5,
        loss_order=torch.arange(12).flip(0),
        needs_tokens=False,
        device=CPU,
    )
    assert first.scores.loss == pytest.approx(second.scores.loss, rel=1e-5)  # type: ignore[attr-defined]
    np.testing.assert_allclose(first.probabilities, second.probabilities, atol=1e-6)  # type: ignore[attr-defined]
    np.testing.assert_allclose(second.probabilities.sum(axis=1), 1, atol=1e-12)


def _fields(batch: Batch) -> Iterator[Tensor]:
    return iter((batch.images, batch.targets, batch.index))
