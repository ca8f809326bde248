"""Micro-batches: the gradients of the whole batch, whatever the loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES
from clip_pkg.config.losses import LOSSES
from clip_pkg.config.schema import RunConfig
from clip_pkg.models.image_text import ImageTextModel, build_model
from clip_pkg.training.batch_norm import batch_norms
from clip_pkg.training.image_forward import (
    MAX_SEED,
    Backward,
    MicroBatches,
    WholeBatch,
    micro_batch_bounds,
)
from support.tiny import TINY
from support.training_steps import CLASSES, FLOAT32, PROMPTS, a_batch, build, distance, step

MICRO = 3  # images of the eight of a batch


class OneGraph:
    """The same parts with the same random numbers, kept in one graph: what memory forbids."""

    def __init__(self, model: ImageTextModel, sizes: list[int]) -> None:
        self._model, self._sizes = model, sizes

    def __call__(self, images: Tensor) -> tuple[Tensor, Backward]:
        seed = int(torch.randint(MAX_SEED, ()))
        parts = []
        for number, part in enumerate(images.split(self._sizes)):
            with torch.random.fork_rng():
                torch.manual_seed(seed + number)
                parts.append(self._model.image_embeddings(part))
        return torch.cat(parts), Tensor.backward


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_are_those_of_the_whole_batch(kind: str) -> None:
    aux = tuple(AUXILIARY_LOSSES)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        whole, parts = (build(kind, aux, dtype, dropout=0.0) for _ in range(2))
        step(*whole, WholeBatch(whole[0], FLOAT32), a_batch(dtype))
        step(*parts, MicroBatches(*parts, FLOAT32, max_images=MICRO), a_batch(dtype))
        assert distance(parts, whole) <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_both_passes_drop_the_same(dtype: torch.dtype, tolerance: float) -> None:
    whole, parts, other = (build("clip", ("triplet",), dtype, dropout=0.3) for _ in range(3))
    step(*whole, OneGraph(whole[0], [2, 3, 3]), a_batch(dtype))
    drawn = torch.rand(3)
    step(*parts, MicroBatches(*parts, FLOAT32, max_images=MICRO), a_batch(dtype))
    assert distance(parts, whole) <= tolerance
    assert torch.equal(torch.rand(3), drawn)  # what comes next draws as if there were no parts
    step(*other, WholeBatch(other[0], FLOAT32), a_batch(dtype))
    assert distance(other, whole) > 1e-3  # there was something to drop


def test_no_more_images_than_allowed_are_in_the_encoder_with_a_graph() -> None:
    model, objective = build("clip", (), torch.float32, dropout=0.0)
    seen: list[tuple[int, bool]] = []
    model.image_encoder.register_forward_hook(
        lambda module, inputs, output: seen.append((len(inputs[0]), output.requires_grad))
    )
    step(model, objective, MicroBatches(model, objective, FLOAT32, max_images=MICRO), a_batch())
    assert seen == [(2, False), (3, False), (3, False), (2, True), (3, True), (3, True)]


def test_running_statistics_count_each_image_once() -> None:
    model, objective = build("clip", (), torch.float32, 0.0, "test_resnet:scratch")
    (first, *_) = layers = batch_norms(model.image_encoder)
    seen: list[Tensor] = []
    first.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].detach()))
    step(model, objective, MicroBatches(model, objective, FLOAT32, max_images=4), a_batch())
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


@given(st.integers(1, 300), st.integers(1, 300) | st.none(), st.integers(1, 9), st.integers(1, 2))
def test_parts_are_few_even_and_no_larger_than_they_must_be(
    images: int, most: int | None, ranks: int, smallest: int
) -> None:
    dealt = micro_batch_bounds(images, most, ranks=ranks, smallest=smallest)
    assert len(dealt) == ranks
    assert len({len(of_rank) for of_rank in dealt}) == 1  # all go through as many exchanges
    parts = [part for of_rank in dealt for part in of_rank]
    assert [row for first, last in parts for row in range(first, last)] == list(range(images))
    sizes = [last - first for first, last in parts if first < last]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= smallest or len(sizes) == 1
    wanted = ranks * (1 if most is None else -(-images // most))
    assert len(sizes) <= wanted
    if len(sizes) < wanted:  # one part more would leave one that is too small
        assert images // (len(sizes) + 1) < smallest
        assert len(parts) < len(sizes) + ranks
