from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from clip_pkg.config.losses import (
    ClipLossConfig,
    FocalConfig,
    MainLossConfig,
    SuperClipLossConfig,
)
from clip_pkg.losses import functional
from clip_pkg.losses.contract import LossInputs, Objective, TrainingSet
from clip_pkg.losses.superclip import SuperClipObjective
from clip_pkg.losses.table import LOSSES, build_objective, class_weight_method

CLASSES, DIM = 5, 8
COUNTS = torch.tensor([40, 3, 17, 1, 9])
WEIGHTS = torch.tensor([0.4, 2.0, 0.7, 5.0, 1.1], dtype=torch.float64)
TRAINING_SET = TrainingSet(class_counts=COUNTS, embed_dim=DIM, class_weights=WEIGHTS)


def union_members() -> tuple[type, ...]:
    union, *_ = get_args(MainLossConfig)
    return get_args(union) or (union,)


def batch(
    targets: list[int],
    *,
    seed: int = 0,
    scale: float = 1 / 0.07,
    dtype: torch.dtype = torch.float64,
) -> LossInputs:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(len(targets), DIM, generator=generator, dtype=dtype)
    texts = torch.randn(CLASSES, DIM, generator=generator, dtype=dtype)
    return LossInputs(
        image_features=torch.nn.functional.normalize(image, dim=1).requires_grad_(),
        class_features=torch.nn.functional.normalize(texts, dim=1).requires_grad_(),
        targets=torch.tensor(targets),
        logit_scale=torch.tensor(scale, dtype=dtype, requires_grad=True),
    )


def leaves(inputs: LossInputs) -> tuple[Tensor, Tensor, Tensor]:
    return inputs.image_features, inputs.class_features, inputs.logit_scale


def assert_same(ours: Tensor, reference: Tensor, inputs: LossInputs) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    pairs = zip(
        torch.autograd.grad(ours, leaves(inputs), retain_graph=True),
        torch.autograd.grad(reference, leaves(inputs), retain_graph=True),
        strict=True,
    )
    for our_gradient, reference_gradient in pairs:
        torch.testing.assert_close(our_gradient, reference_gradient, rtol=1e-11, atol=1e-12)


def test_table_and_config_union_have_the_same_kinds() -> None:
    kinds = {member.model_fields["type"].default: member for member in union_members()}
    assert {kind: row.config_class for kind, row in LOSSES.items()} == kinds


@pytest.mark.parametrize("kind", LOSSES)
class TestEveryRow:
    def objective(self, kind: str) -> Objective:
        return build_objective(LOSSES[kind].config_class(), TRAINING_SET)

    def test_parameters_are_owned_only_where_the_row_says_so(self, kind: str) -> None:
        has_parameters = any(True for _ in self.objective(kind).parameters())
        assert has_parameters == LOSSES[kind].owns_parameters

    def test_state_round_trip(self, kind: str) -> None:
        objective = self.objective(kind)
        objective.load_state_dict(objective.state_dict(), strict=True)

    @pytest.mark.parametrize(
        "targets", [[0], [2, 2, 2, 2], [0, 1, 2, 3], [4, 4, 1, 0, 4, 1]], ids=str
    )
    @pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
    def test_finite_value_and_gradient(
        self, kind: str, targets: list[int], temperature: float
    ) -> None:
        for dtype in (torch.float32, torch.float64):
            inputs = batch(targets, scale=1 / temperature, dtype=dtype)
            output = self.objective(kind)(inputs)
            assert output.total.dtype == dtype
            for part in output.parts.values():
                assert part.shape == ()
            for gradient in torch.autograd.grad(output.total, leaves(inputs)):
                assert torch.isfinite(gradient).all()
            assert torch.isfinite(output.total)

    def test_aligned_images_at_temperature_of_a_hundredth(self, kind: str) -> None:
        texts = torch.eye(CLASSES, DIM)
        inputs = LossInputs(
            image_features=texts[torch.tensor([0, 1, 1, 4])].clone().requires_grad_(),
            class_features=texts.requires_grad_(),
            targets=torch.tensor([0, 1, 1, 4]),
            logit_scale=torch.tensor(100.0, requires_grad=True),
        )
        total = self.objective(kind)(inputs).total
        assert torch.isfinite(total)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(total, leaves(inputs)))

    def test_autocast_changes_nothing(self, kind: str) -> None:
        inputs = batch([0, 1, 1, 4], dtype=torch.float32)
        plain = self.objective(kind)(inputs).total
        again = LossInputs(*leaves(inputs)[:2], inputs.targets, inputs.logit_scale)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = self.objective(kind)(again).total
        assert inside.dtype == torch.float32
        assert torch.equal(inside, plain)

    def test_half_precision_features_are_widened(self, kind: str) -> None:
        inputs = batch([0, 1, 1, 4], dtype=torch.float32)
        half = LossInputs(
            inputs.image_features.bfloat16(),
            inputs.class_features.bfloat16(),
            inputs.targets,
            inputs.logit_scale,
        )
        assert self.objective(kind)(half).total.dtype == torch.float32


@pytest.mark.parametrize("targets", [[0, 1, 2, 3, 4], [2, 2, 2], [0, 0, 3, 1, 3, 3], [1]], ids=str)
@pytest.mark.parametrize("positives", ["same_class", "diagonal"])
def test_clip_equals_both_textbook_forms(targets: list[int], positives: str) -> None:
    inputs = batch(targets)
    ours = build_objective(ClipLossConfig(positives=positives), TRAINING_SET)(inputs)
    texts = inputs.class_features[inputs.targets]
    image, scale = inputs.image_features, inputs.logit_scale
    diagonal = functional.clip(image, texts, scale, normalize_inputs=False)
    multi = functional.multi_positive_clip(
        image, texts, inputs.targets, scale, normalize_inputs=False
    )
    assert_same(ours.total, diagonal, inputs)
    assert_same(ours.total, multi, inputs)
    assert_same(ours.parts["contrastive"], ours.total, inputs)


def naive_class_loss(
    inputs: LossInputs, weights: Tensor, gamma: float = 0.0, alpha: float = 1.0
) -> Tensor:
    """Sum over samples, one at a time, of the textbook formula."""
    total, norm = torch.zeros((), dtype=torch.float64), 0.0
    for i, y in enumerate(inputs.targets.tolist()):
        scores = [inputs.logit_scale * inputs.image_features[i] @ t for t in inputs.class_features]
        p = torch.exp(scores[y]) / sum(torch.exp(s) for s in scores)
        total = total + weights[y] * alpha * (1 - p) ** gamma * -torch.log(p)
        norm += float(weights[y])
    return total / norm


@pytest.mark.parametrize("weighting", ["auto", "none", "balanced"])
@pytest.mark.parametrize(
    "focal", [None, FocalConfig(gamma=2.0, alpha=0.25), FocalConfig(gamma=0.5)]
)
def test_superclip_is_the_weighted_sum_of_its_parts(
    weighting: str, focal: FocalConfig | None
) -> None:
    config = SuperClipLossConfig(
        class_loss_weight=1.5,
        contrastive_loss_weight=0.8,
        class_weighting=weighting,  # type: ignore[arg-type]
        focal=focal,
    )
    inputs = batch([0, 0, 3, 1, 3, 3], scale=5.0)
    output = build_objective(config, TRAINING_SET)(inputs)
    weights = torch.ones(CLASSES, dtype=torch.float64) if weighting == "none" else WEIGHTS
    gamma, alpha = (focal.gamma, focal.alpha or 1.0) if focal else (0.0, 1.0)
    assert_same(output.parts["class"], naive_class_loss(inputs, weights, gamma, alpha), inputs)
    contrastive = build_objective(ClipLossConfig(), TRAINING_SET)(inputs).total
    assert_same(output.parts["contrastive"], contrastive, inputs)
    assert_same(
        output.total, 1.5 * output.parts["class"] + 0.8 * output.parts["contrastive"], inputs
    )


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_focal_gradient_where_the_target_is_certain(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = functional.focal(logits, torch.tensor([0, 1]), gamma=gamma)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert float(loss) == pytest.approx(0.5 * 0.5**gamma * math.log(2), rel=1e-6)


def test_focal_with_gamma_zero_is_cross_entropy() -> None:
    inputs = batch([0, 0, 3, 1])
    logits = inputs.class_logits()
    plain = functional.weighted_cross_entropy(logits, inputs.targets, WEIGHTS)
    assert_same(functional.focal(logits, inputs.targets, WEIGHTS, gamma=0.0), plain, inputs)


def test_a_batch_of_weightless_classes_costs_nothing() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    labels, weights = torch.zeros(3, dtype=torch.int64), torch.tensor([0.0, 1.0])
    for loss in (functional.weighted_cross_entropy, functional.focal):
        value = loss(logits, labels, weights)
        assert float(value) == 0.0
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.equal(gradient, torch.zeros_like(logits))


def test_class_weights_move_with_the_objective_but_stay_out_of_the_checkpoint() -> None:
    objective = SuperClipObjective(class_weights=WEIGHTS)
    assert objective.to(torch.float32).class_weights.dtype == torch.float32  # type: ignore[union-attr]
    assert not objective.state_dict()


def test_class_weight_method() -> None:
    assert class_weight_method(ClipLossConfig(), "balanced") is None
    assert class_weight_method(SuperClipLossConfig(), "balanced") == "balanced"
    none = SuperClipLossConfig(class_weighting="none")
    assert class_weight_method(none, "balanced") is None
    fixed = SuperClipLossConfig(class_weighting="inverse_sqrt")
    assert class_weight_method(fixed, "balanced") == "inverse_sqrt"


def test_inverse_frequency_weights() -> None:
    weights = functional.inverse_frequency_weights(torch.tensor([6, 3, 0]), smooth=0)
    assert weights.tolist() == [9 / (3 * 6), 9 / (3 * 3), 0.0]
    weights = functional.inverse_frequency_weights(torch.tensor([6, 3, 0]), smooth=1)
    assert weights.tolist() == [9 / (3 * 7), 9 / (3 * 4), 9 / 3]


def test_misuse_is_named() -> None:
    logits, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="class_weights or class_counts"):
        functional.weighted_cross_entropy(logits, labels)
    with pytest.raises(ValueError, match="reduction"):
        functional.cross_entropy(logits, labels, reduction="mean")  # type: ignore[arg-type]
