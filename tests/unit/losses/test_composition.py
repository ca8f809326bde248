from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from clip_pkg.config.auxiliary_losses import CenterConfig, CosFaceConfig
from clip_pkg.config.loss_blocks import term_labels
from clip_pkg.config.losses import InfoNceLossConfig, ProxyLossConfig, SuperClipLossConfig
from clip_pkg.losses.contract import ComposedObjective, LossInputs, LossOutput, Objective
from clip_pkg.losses.registry import build_objective
from support.loss_batches import TRAINING_SET, batch

AUX = (CenterConfig(weight=0.5), CosFaceConfig(weight=0.0))


class Constant(Objective):
    """A loss of one named part that does not depend on anything."""

    def __init__(self, part: str, value: float) -> None:
        super().__init__({part: 2.0})
        self.part = part
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, inputs: LossInputs) -> LossOutput:
        return self.weighted_sum({self.part: self.value}, {f"{self.part}_seen": self.value})


def test_parts_keep_their_weights_and_auxiliary_ones_get_theirs() -> None:
    config = SuperClipLossConfig(class_loss_weight=2.0, contrastive_loss_weight=0.25)
    objective = build_objective(config, TRAINING_SET, AUX).double()
    output = objective(batch([0, 1, 2, 2]))
    weights = {"class": 2.0, "contrastive": 0.25, "center": 0.5, "cosface": 0.0}
    assert output.weights == objective.term_weights == weights
    assert list(term_labels([config, *AUX])) == list(output.terms)
    assert term_labels([config, *AUX])["center"].tag == "Loss/Center"
    assert output.total.item() == pytest.approx(
        sum(weight * output.terms[name].item() for name, weight in weights.items())
    )


def test_names_of_parts_must_differ() -> None:
    with pytest.raises(AssertionError, match="term names clash"):
        ComposedObjective(Constant("a", 1.0), {"a": (1.0, Constant("a", 2.0))})


def test_statistics_of_all_are_handed_on() -> None:
    whole = ComposedObjective(Constant("a", 1.0), {"b": (3.0, Constant("b", 5.0))})
    output = whole(batch([0]))
    assert output.total.item() == 2.0 * 1.0 + 3.0 * 5.0
    assert output.statistics.keys() == {"a_seen", "b_seen"}
    infonce = build_objective(InfoNceLossConfig(), TRAINING_SET, AUX)
    assert "positive_mean" in infonce(batch([0, 1])).statistics


def test_the_main_objective_predicts() -> None:
    objective = build_objective(ProxyLossConfig(), TRAINING_SET, AUX).double()
    inputs = batch([0, 1])
    assert torch.equal(
        objective.prediction_logits(inputs), objective.main.prediction_logits(inputs)
    )
    assert not torch.equal(objective.prediction_logits(inputs), inputs.class_logits)


def test_everything_owned_is_in_the_state_and_learns_at_its_own_rate() -> None:
    aux = (CenterConfig(lr_scale=7.0), CosFaceConfig())
    objective = build_objective(ProxyLossConfig(proxy_lr_scale=3.0), TRAINING_SET, aux)
    assert set(objective.state_dict()) == {
        "main.proxies",
        "auxiliary.center.centers",
        "auxiliary.cosface.class_vectors",
    }
    rates = [(group["lr"], group["weight_decay"]) for group in objective.parameter_groups(0.5, 0.1)]
    assert sorted(rates) == [(0.5, 0.0), (1.5, 0.0), (3.5, 0.0)]


def test_frozen_parameters_are_in_no_group() -> None:
    objective = build_objective(ProxyLossConfig(), TRAINING_SET)
    objective.requires_grad_(requires_grad=False)
    assert objective.parameter_groups(0.5, 0.1) == []


def test_class_logits_and_cosines_are_computed_once() -> None:
    inputs = batch([0, 1, 1])
    assert inputs.class_logits is inputs.class_logits
    assert inputs.class_cosines is inputs.class_cosines
    torch.testing.assert_close(inputs.class_logits, inputs.logit_scale * inputs.class_cosines)


def test_prepared_leaves_a_batch_without_a_mask_as_it_is() -> None:
    inputs = batch([0, 1])
    assert inputs.prepared() is inputs
    half = replace(inputs, image_features=inputs.image_features.bfloat16()).prepared()
    assert half.image_features.dtype == torch.float32
    assert half.class_features is inputs.class_features


def test_what_an_objective_needs_and_does_not_get_is_named() -> None:
    inputs = replace(batch([0]), class_features=None, image_embeddings=None)
    with pytest.raises(AssertionError, match="class texts"):
        _ = inputs.class_logits
    with pytest.raises(AssertionError, match="before scaling"):
        _ = inputs.embeddings
