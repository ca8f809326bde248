"""What evaluation and inference share: modes, class features, the objective's reconstruction."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clip_pkg.config.schema import RunConfig
from clip_pkg.losses.contract import LossInputs, Objective
from clip_pkg.models.classifier import (
    Classifier,
    class_features,
    evaluation_mode,
    objective_for,
    probabilities,
)
from clip_pkg.models.image_text import ImageTextModel, build_model
from clip_pkg.models.precision import Precision
from support.tiny import TINY

FLOAT32 = Precision("cpu", None)
CLASSES = ("a", "b", "c")


@pytest.fixture
def model() -> ImageTextModel:
    torch.manual_seed(0)
    return build_model(RunConfig.model_validate(TINY), CLASSES, [["a"], ["b"], ["c"]])


def test_modes_are_put_back_after_an_error_too(model: ImageTextModel) -> None:
    objective = Objective()
    for training in (True, False):
        model.train(training)
        with pytest.raises(KeyError), evaluation_mode(model, objective):
            assert not model.training
            assert not objective.training
            raise KeyError
        assert model.training == objective.training == training


def test_class_features_are_never_made_in_training_mode(model: ImageTextModel) -> None:
    with pytest.raises(AssertionError, match="dropout"):
        class_features(model, FLOAT32)
    found = class_features(model.eval(), FLOAT32)
    assert found is not None
    assert found.shape == (3, 16)


def test_an_objective_predicts_without_labels(model: ImageTextModel) -> None:
    seen: list[LossInputs] = []

    class Watching(Objective):
        def prediction_logits(self, inputs: LossInputs) -> torch.Tensor:
            seen.append(inputs)
            return inputs.class_logits

    classifier = Classifier(model.eval(), Watching(), FLOAT32, class_features(model, FLOAT32))
    with torch.no_grad():
        embeddings = classifier.embeddings(torch.randn(5, 3, 32, 32))
        answers = probabilities(classifier.logits(embeddings))
    (inputs,) = seen
    assert inputs.targets.tolist() == [0] * 5
    assert inputs.soft_targets is inputs.class_tokens is None
    assert answers.dtype == torch.float64
    cosines = (
        nn.functional.normalize(embeddings)
        @ nn.functional.normalize(model.text_encoder.vectors.detach()).T
    )
    wanted = (cosines / TINY.get("temperature", 0.07)).double().softmax(1)
    torch.testing.assert_close(answers, wanted, rtol=0, atol=1e-6)


def test_class_weights_follow_from_the_counts() -> None:
    loss = {"type": "ce", "class_weighting": "balanced"}
    config = RunConfig.model_validate({**TINY, "loss": loss})
    objective = objective_for(config, [1, 4, 5], None)
    (weights,) = objective.buffers()
    torch.testing.assert_close(weights, torch.tensor([10 / 3, 10 / 12, 10 / 15]))
