"""Micro-batches: the gradients of the whole batch, whatever the loss."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clip_pkg.config.aux_losses import aux_classes
from clip_pkg.config.losses import ClipLossConfig, loss_classes
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.batches import Batch
from clip_pkg.data.mixing import LabelMixing
from clip_pkg.engine.batch_norm import batch_norms
from clip_pkg.engine.image_side import (
    SEEDS,
    Embedded,
    ImageSide,
    MicroBatches,
    WholeBatch,
    part_sizes,
)
from clip_pkg.engine.optimisation import Optimisation
from clip_pkg.engine.step import TrainingStep
from clip_pkg.losses.contract import Objective, TrainingSet
from clip_pkg.losses.table import AUXILIARY, LOSSES, build_objective
from clip_pkg.model import ImageTextModel, build_model
from clip_pkg.precision import Precision

FLOAT32 = Precision("cpu", None)
CLASSES, PROMPTS = ("a", "b", "c"), [["an a"], ["a b"], ["some c"]]
VIT = {"image_encoder_name": "test_vit:scratch"}
BATCH_SIZE, MICRO = 8, 3


def build(kind: str, aux: tuple[str, ...], dtype: torch.dtype, dropout: float) -> tuple:
    """A model without BatchNorm and an objective, the same ones each time."""
    tokens = {"text_encoder_name": "clip:ViT-S-32-alt:scratch"} if LOSSES[kind].needs_tokens else {}
    torch.manual_seed(0)
    model = build_model(RunConfig.model_validate({**TINY, **VIT, **tokens}), CLASSES, PROMPTS)
    for module in model.image_encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    training_set = TrainingSet(torch.tensor([4, 4, 4]), 16, torch.ones(3), model.vocabulary_size)
    objective = build_objective(
        loss_classes()[kind](), training_set, [aux_classes()[name](weight=0.5) for name in aux]
    )
    return model.to(dtype), objective.to(dtype)


def step(model: ImageTextModel, objective: Objective, image_side: ImageSide, batch: Batch) -> None:
    """One step at the learning rate 0, which leaves the gradients behind."""
    groups = [*model.parameter_groups(0, 0), *objective.parameter_groups(0, 0)]
    torch.manual_seed(1)
    TrainingStep(
        model,
        objective,
        image_side,
        Optimisation(groups, precision=FLOAT32, total_steps=9, warmup_steps=1, grad_clip_norm=None),
        precision=FLOAT32,
        mixing=LabelMixing(3),
        needs_tokens=model.vocabulary_size is not None,
        prompt_generator=torch.Generator().manual_seed(0),
        negatives_generator=torch.Generator().manual_seed(0),
    )(batch)


def a_batch(dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH_SIZE, 3, 32, 32, generator=generator).to(dtype)
    return Batch(images, torch.tensor([0, 1, 2, 0, 1, 2, 0, 0]), torch.arange(BATCH_SIZE))


def gradients(*modules: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and parameter.grad is not None:
                yield name, parameter.grad


def assert_same_gradients(ours: tuple, reference: tuple, tolerance: float) -> None:
    """`tolerance` is the length of the difference, with the length of the whole gradient as 1."""
    mine, wanted = dict(gradients(*ours)), dict(gradients(*reference))
    assert list(mine) == list(wanted)
    assert any(name.startswith("image_encoder.") for name in mine)
    length = torch.stack([gradient.norm() for gradient in wanted.values()]).norm()
    assert length > 0
    for name, gradient in mine.items():
        assert (gradient - wanted[name]).norm() <= tolerance * length, name


class OneGraph:
    """The same parts with the same random numbers, kept in one graph: what memory forbids."""

    def __init__(self, model: ImageTextModel, sizes: list[int]) -> None:
        self._model, self._sizes = model, sizes

    def __call__(self, images: Tensor) -> Embedded:
        seed = int(torch.randint(SEEDS, ()))
        parts = []
        for number, part in enumerate(images.split(self._sizes)):
            with torch.random.fork_rng():
                torch.manual_seed(seed + number)
                parts.append(self._model.image_embeddings(part))
        return Embedded(torch.cat(parts), Tensor.backward)


@pytest.mark.parametrize("aux", [(), tuple(AUXILIARY)], ids=["alone", "with auxiliaries"])
@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_are_those_of_the_whole_batch(kind: str, aux: tuple[str, ...]) -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        whole, parts = (build(kind, aux, dtype, dropout=0.0) for _ in range(2))
        step(*whole, WholeBatch(whole[0], FLOAT32), a_batch(dtype))
        step(*parts, MicroBatches(parts[0], FLOAT32, MICRO), a_batch(dtype))
        assert_same_gradients(parts, whole, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_both_passes_drop_the_same(dtype: torch.dtype, tolerance: float) -> None:
    whole, parts, other = (build("clip", ("triplet",), dtype, dropout=0.3) for _ in range(3))
    step(*whole, OneGraph(whole[0], [2, 3, 3]), a_batch(dtype))
    drawn = torch.rand(3)
    step(*parts, MicroBatches(parts[0], FLOAT32, MICRO), a_batch(dtype))
    assert_same_gradients(parts, whole, tolerance)
    assert torch.equal(torch.rand(3), drawn)  # what comes next draws as if there were no parts
    step(*other, WholeBatch(other[0], FLOAT32), a_batch(dtype))
    with pytest.raises(AssertionError):  # there was something to drop
        assert_same_gradients(other, whole, 1e-3)


def test_no_more_images_than_allowed_are_in_the_encoder_with_a_graph() -> None:
    model, objective = build("clip", (), torch.float32, dropout=0.0)
    seen: list[tuple[int, bool]] = []
    model.image_encoder.register_forward_hook(
        lambda module, inputs, output: seen.append((len(inputs[0]), output.requires_grad))
    )
    step(model, objective, MicroBatches(model, FLOAT32, MICRO), a_batch())
    assert seen == [(2, False), (3, False), (3, False), (2, True), (3, True), (3, True)]


def test_running_statistics_count_each_image_once() -> None:
    torch.manual_seed(0)
    model = build_model(RunConfig.model_validate(TINY), CLASSES, PROMPTS)
    objective = build_objective(ClipLossConfig(), TrainingSet(torch.tensor([4, 4, 4]), 16))
    (first, *_) = layers = batch_norms(model.image_encoder)
    seen: list[Tensor] = []
    first.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].detach()))
    step(model, objective, MicroBatches(model, FLOAT32, 4), a_batch())
    assert len(seen) == 4
    assert all(int(layer.num_batches_tracked) == 2 for layer in layers)
    assert {layer.momentum for layer in layers} == {0.1}
    # Both halves move the mean, by together a tenth, and the second passes do not.
    share = 1 - 0.9**0.5
    wanted = torch.zeros_like(first.running_mean)
    for part in seen[:2]:
        wanted = (1 - share) * wanted + share * part.mean(dim=(0, 2, 3))
    torch.testing.assert_close(first.running_mean, wanted)
    assert all(layer.track_running_stats for layer in layers)


def test_a_frozen_encoder_has_no_batch_statistics() -> None:
    config = RunConfig.model_validate({**TINY, "freeze_image_encoder": True})
    model = build_model(config, CLASSES, PROMPTS)
    assert any(isinstance(module, _BatchNorm) for module in model.modules())
    assert batch_norms(model.image_encoder) == ()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 2))
def test_parts_are_few_even_and_no_larger_than_they_must_be(
    images: int, most: int, smallest: int
) -> None:
    sizes = part_sizes(images, most, smallest=smallest)
    assert sum(sizes) == images
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= smallest or len(sizes) == 1
    assert len(sizes) <= -(-images // most)
    if max(sizes) > most:  # one part more would leave one that is too small
        assert images // (len(sizes) + 1) < smallest
