"""What every row of the loss table must do; a new row is tested here without a change."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES
from clip_pkg.config.loss_blocks import LossBlock, term_labels
from clip_pkg.config.losses import LOSSES
from clip_pkg.config.two_view_losses import TWO_VIEW_LOSSES
from clip_pkg.losses.contract import LossInputs
from clip_pkg.losses.registry import builder
from support.loss_batches import (
    CLASSES,
    DIM,
    EVERY_ROW,
    TOKENS,
    VARIANTS,
    Case,
    batch,
    gradients,
    leaves,
)

CASES = [*EVERY_ROW, *VARIANTS]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
EVERY_CLASS = [0, 1, 2, 3, 4, 4, 1, 0]


def with_soft(inputs: LossInputs, soft: Tensor) -> LossInputs:
    return replace(inputs, soft_targets=soft.to(inputs.image_features.dtype))


def one_hot(inputs: LossInputs) -> Tensor:
    return torch.nn.functional.one_hot(inputs.targets, CLASSES)


def test_no_term_of_a_main_loss_is_named_as_an_auxiliary_loss() -> None:
    main = {term.name for row in LOSSES.values() for term in row.terms}
    assert not main & set(AUXILIARY_LOSSES)
    for kind, row in AUXILIARY_LOSSES.items():
        assert [term.name for term in row.terms] == [kind]
    rows = [*LOSSES.values(), *AUXILIARY_LOSSES.values()]
    tags = {term.name: term.tag for row in rows for term in row.terms}
    assert len(set(tags.values())) == len(tags)


@pytest.mark.parametrize(
    "row", [*LOSSES.values(), *AUXILIARY_LOSSES.values(), *TWO_VIEW_LOSSES.values()]
)
def test_every_row_names_its_source_builder_and_phrase(row: type[LossBlock]) -> None:
    assert row.source
    assert callable(builder(row))
    assert "{" not in row.model_validate({}).phrase()


@every_case
class TestEveryRow:
    def test_total_is_the_weighted_sum_of_its_labelled_terms(self, case: Case) -> None:
        objective = case.build()
        output = objective(batch(EVERY_CLASS))
        assert list(output.terms) == list(term_labels(case.losses))
        assert dict(output.weights) == dict(objective.term_weights)
        assert output.terms.keys() == output.weights.keys()
        total = sum(output.weights[name] * part for name, part in output.terms.items())
        torch.testing.assert_close(output.total, total, rtol=1e-14, atol=1e-14)
        for part in (*output.terms.values(), *output.statistics.values()):
            assert part.shape == ()
        assert not any(value.requires_grad for value in output.statistics.values())

    def test_class_weights_are_asked_for_where_they_are_used(self, case: Case) -> None:
        weighted = any(
            getattr(module, "class_weights", None) is not None for module in case.build().modules()
        )
        assert weighted == (case.loss.class_weight_method("balanced") is not None)

    def test_prediction_is_a_row_of_logits_per_image(self, case: Case) -> None:
        logits = case.build().prediction_logits(batch([0, 1, 1]))
        assert logits.shape == (3, CLASSES)
        assert torch.isfinite(logits).all()

    def test_it_learns_from_images_and_from_texts_where_it_needs_them(self, case: Case) -> None:
        inputs = batch(EVERY_CLASS)
        image, texts, _, embeddings = gradients(case.build()(inputs).total, leaves(inputs))
        assert (image != 0).any() or (embeddings != 0).any()
        if case.name != "combined_proxy_alone":  # λ = 0: the text part is there, for the record
            assert bool((texts != 0).any()) == any(loss.needs_text for loss in case.losses)

    def test_its_own_parameters_are_reached_and_in_one_group_each(self, case: Case) -> None:
        objective = case.build().double()
        objective(batch(EVERY_CLASS)).total.backward()
        own = dict(objective.named_parameters())
        for name, parameter in own.items():
            assert parameter.grad is not None, name
            assert (parameter.grad != 0).any(), name
        groups = objective.parameter_groups(0.5, 0.01)
        assert Counter(map(id, own.values())) == Counter(
            id(parameter) for group in groups for parameter in group["params"]
        )
        assert len({group["name"] for group in groups}) == len(groups)
        assert {group["weight_decay"] for group in groups} <= {0.0, 0.01}

    def test_state_round_trip_gives_the_same_numbers(self, case: Case) -> None:
        trained, fresh = case.build(seed=1), case.build(seed=2)
        for parameter in trained.parameters():
            parameter.data.add_(0.1)
        trained(batch(EVERY_CLASS))
        fresh.load_state_dict(trained.state_dict(), strict=True)
        again = batch([4, 1, 0, 2])
        one = trained(again)
        two = fresh(replace(again, generator=torch.Generator().manual_seed(0)))
        assert torch.equal(one.total, two.total)
        assert torch.equal(trained.prediction_logits(again), fresh.prediction_logits(again))

    @pytest.mark.parametrize(
        "targets", [[0], [2, 2, 2, 2], [0, 1, 2, 3], [4, 4, 1, 0, 4, 1]], ids=str
    )
    def test_finite_value_and_gradient(self, case: Case, targets: list[int]) -> None:
        for dtype, temperature in product((torch.float32, torch.float64), (0.01, 1.0)):
            inputs = batch(targets, scale=1 / temperature, dtype=dtype)
            objective = case.build()
            total = objective(inputs).total
            assert total.dtype == dtype
            assert torch.isfinite(total)
            for gradient in gradients(total, [*leaves(inputs), *objective.parameters()]):
                assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_images_on_their_texts_and_proxies_at_temperature_of_a_hundredth(
        self, case: Case, sign: float
    ) -> None:
        targets = torch.tensor([0, 1, 1, 4])
        texts = torch.eye(CLASSES, DIM)
        objective = case.build()
        for parameter in objective.parameters():
            if parameter.shape == texts.shape:
                parameter.data.copy_(texts)
        images = sign * texts[targets]
        inputs = LossInputs(
            image_features=images.clone().requires_grad_(),
            class_features=texts.requires_grad_(),
            targets=targets,
            logit_scale=torch.tensor(100.0, requires_grad=True),
            image_embeddings=images.clone().requires_grad_(),
            class_tokens=TOKENS,
        )
        total = objective(inputs).total
        assert torch.isfinite(total)
        for gradient in gradients(total, [*leaves(inputs), *objective.parameters()]):
            assert torch.isfinite(gradient).all()

    def test_autocast_changes_nothing(self, case: Case) -> None:
        inputs = batch([0, 1, 1, 4], dtype=torch.float32)
        plain, predicted = case.build()(inputs).total, case.build().prediction_logits(inputs)
        again = batch([0, 1, 1, 4], dtype=torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = case.build()(again).total
            predicted_inside = case.build().prediction_logits(again)
        assert inside.dtype == torch.float32
        assert torch.equal(inside, plain)
        assert torch.equal(predicted_inside, predicted)

    def test_half_precision_features_are_widened(self, case: Case) -> None:
        inputs = batch([0, 1, 1, 4], dtype=torch.float32)
        image, texts, _, embeddings = (leaf.bfloat16() for leaf in leaves(inputs))
        half = replace(
            inputs, image_features=image, class_features=texts, image_embeddings=embeddings
        )
        assert case.build()(half).total.dtype == torch.float32

    @pytest.mark.parametrize("garbage", [math.nan, math.inf, 0.0])
    def test_masked_images_are_as_good_as_absent(self, case: Case, garbage: float) -> None:
        targets, mask = [4, 2, 1, 0, 2, 4, 3], [True, False, True, True, True, True, False]
        kept = torch.tensor(mask)
        few = batch(targets)
        few = replace(
            few,
            image_features=few.image_features.detach()[kept].requires_grad_(),
            image_embeddings=few.image_embeddings.detach()[kept].requires_grad_(),  # type: ignore[union-attr]
            targets=few.targets[kept],
        )
        all_ = batch(targets, mask=mask)
        with torch.no_grad():
            all_.image_features[~kept] = garbage
            all_.image_embeddings[~kept] = garbage  # type: ignore[index]
        all_ = replace(all_, targets=torch.where(kept, all_.targets, -1))
        reference, masked = case.build()(few), case.build()(all_)
        torch.testing.assert_close(masked.total, reference.total, rtol=1e-12, atol=1e-12)
        for name, value in masked.statistics.items():
            torch.testing.assert_close(value, reference.statistics[name])
        expected = gradients(reference.total, leaves(few))
        actual = gradients(masked.total, leaves(all_))
        for index in (0, 3):
            assert torch.equal(actual[index][~kept], torch.zeros_like(actual[index][~kept]))
            actual[index] = actual[index][kept]
        for ours, theirs in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)

    def test_a_batch_in_which_nothing_counts_teaches_nothing(self, case: Case) -> None:
        inputs = batch([0, 1, 1, 4], mask=[False] * 4)
        objective = case.build()
        total = objective(inputs).total
        assert total.item() == 0.0
        for gradient in gradients(total, [*leaves(inputs), *objective.parameters()]):
            assert torch.equal(gradient, torch.zeros_like(gradient))

    def test_certain_soft_labels_are_hard_labels(self, case: Case) -> None:
        inputs = batch(EVERY_CLASS)
        hard = case.build()(inputs).total
        again = batch(EVERY_CLASS)
        soft = case.build()(with_soft(again, one_hot(again))).total
        torch.testing.assert_close(soft, hard, rtol=1e-12, atol=1e-12)

    def test_only_rows_that_say_so_look_at_soft_labels(self, case: Case) -> None:
        inputs = batch(EVERY_CLASS)
        hard = case.build()(inputs)
        mixed = (0.7 * one_hot(inputs) + 0.3 * one_hot(inputs).roll(1, 0)).double()
        soft = case.build()(with_soft(batch(EVERY_CLASS), mixed))
        changed = {
            name for name in hard.terms if not torch.equal(hard.terms[name], soft.terms[name])
        }
        for loss in case.losses:
            names = {term.name for term in loss.terms}
            own = changed & names
            if loss.soft_targets == "yes":
                assert own == names
            elif loss.soft_targets == "no" or loss in case.aux:
                assert not own
            else:
                assert 0 < len(own) < len(names)

    def test_nothing_waits_for_the_device_and_nothing_loops_over_the_batch(
        self, case: Case
    ) -> None:
        if not all(loss.can_be_recorded for loss in case.losses):
            pytest.skip("says that it waits")
        calls = []
        for size in (6, 60):
            inputs = batch([i % CLASSES for i in range(size)], dtype=torch.float32)
            # A fake tensor has no values that anything on the host could ask for.
            with FakeTensorMode(allow_non_fake_inputs=True) as fake:
                whole = {
                    name: fake.from_tensor(value) if isinstance(value, Tensor) else value
                    for name, value in vars(inputs).items()
                }
                objective = case.build()
                with CountCalls() as counted:
                    objective(LossInputs(**{**whole, "generator": None}))
            calls.append(counted.calls)
        assert calls[0] == calls[1]


@pytest.mark.parametrize(
    "case", [c for c in CASES if not any(loss.needs_text for loss in c.losses)], ids=str
)
def test_without_texts_where_it_needs_none(case: Case) -> None:
    inputs = replace(batch(EVERY_CLASS), class_features=None, class_tokens=None)
    assert torch.isfinite(case.build()(inputs).total)
    assert case.build().prediction_logits(inputs).shape == (len(EVERY_CLASS), CLASSES)


class CountCalls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))
