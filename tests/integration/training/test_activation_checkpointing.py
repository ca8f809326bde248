"""Activations that are computed again: the same gradients and statistics in less memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.measurement import peak_bytes
from clip_pkg.models.image_text import ImageTextModel
from clip_pkg.training.image_forward import Embed, MicroBatches, WholeBatch
from support.training_steps import FLOAT32, a_batch, build, distance, step

FAMILIES = {  # name: whether its norms look at the batch
    "test_resnet": True,
    "test_efficientnet": True,
    "test_convnext": False,
    "test_vit": False,
    "clip:ViT-S-32-alt": False,
}
CPU = torch.device("cpu")


def whole(model: ImageTextModel, objective: nn.Module) -> Embed:
    return WholeBatch(model, FLOAT32)


def micro_batches(model: ImageTextModel, objective: nn.Module) -> Embed:
    return MicroBatches(model, objective, FLOAT32, max_images=4)


def count_calls(encoder: nn.Module) -> Counter[str]:
    """How often each module without children is called, from now on."""
    counts: Counter[str] = Counter()
    for name, module in encoder.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: counts.update([name]))
    return counts


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, whole) for name in FAMILIES),
        ("test_resnet", micro_batches),
        ("test_vit", micro_batches),
    ],
)
def test_gradients_and_statistics_are_the_same(name: str, way: Callable[..., Embed]) -> None:
    kept, recomputed = (
        build("clip", (), torch.float64, dropout=0.2, encoder=f"{name}:scratch") for _ in range(2)
    )
    recomputed[0].image_encoder.recompute_activations()
    calls = [count_calls(model.image_encoder) for model, _ in (kept, recomputed)]
    for _ in range(2):
        for model, objective in (kept, recomputed):
            step(model, objective, way(model, objective), a_batch(torch.float64))
        assert distance(recomputed, kept) <= 1e-12
    again = [name for name, count in calls[1].items() if count > calls[0][name]]
    assert len(again) > len(calls[0]) / 3  # or else nothing was saved
    norms = [name for name, _ in kept[0].named_buffers() if "running_mean" in name]
    assert bool(norms) == FAMILIES[name]
    theirs = dict(recomputed[0].named_buffers())
    for key, value in kept[0].named_buffers():
        assert torch.equal(value, theirs[key]), key


def memory_per_image(
    encoder: str, sizes: tuple[int, int], px: int, *, most: int | None = None, recomputes: bool
) -> float:
    """Bytes that a step needs for each further image of a batch.

    Compared between two batch sizes, because weights and the workspaces that libraries choose for
    a kind of CPU do not depend on them.
    """
    model, objective = build("clip", (), torch.float32, dropout=0.0, encoder=encoder)
    if recomputes:
        model.image_encoder.recompute_activations()
    embed: Embed = WholeBatch(model, FLOAT32)
    if most is not None:
        embed = MicroBatches(model, objective, FLOAT32, max_images=most)

    def peak(images: torch.Tensor) -> int:
        def one() -> None:
            embeddings, backward = embed(images)
            backward(embeddings.square().sum())

        one()  # gradients and workspaces are there from now on
        return peak_bytes(one, CPU)

    small, large = (peak(torch.randn(size, 3, px, px)) for size in sizes)
    return (large - small) / (sizes[1] - sizes[0])


def test_less_memory_is_needed() -> None:
    kept, recomputed = (
        memory_per_image("resnet18:scratch", (8, 24), 96, recomputes=recomputes)
        for recomputes in (False, True)
    )
    assert recomputed < 0.7 * kept


def test_micro_batches_need_the_memory_of_one_micro_batch() -> None:
    whole, micro = (
        memory_per_image("resnet18:scratch", (32, 64), 32, most=most, recomputes=False)
        for most in (None, 8)
    )
    assert micro < 0.01 * whole


def test_a_run_of_it_is_the_same_to_the_log(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    for output, changes in (("kept", {}), ("again", {"activation_checkpointing": True})):
        train(
            "--config-file",
            write_configs({"name": "a", "use_cv": False, "use_amp": False, **changes}),
            output=output,
        )
    kept, again = (
        torch.load(tmp_path / output / "a/fold_1/checkpoint_latest.pth", weights_only=True)
        for output in ("kept", "again")
    )
    assert kept["model"].keys() == again["model"].keys()
    for key, value in kept["model"].items():
        torch.testing.assert_close(again["model"][key], value, rtol=1e-6, atol=1e-6)


def test_an_encoder_that_cannot_is_named_before_anything_runs(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_configs(
        {
            "image_encoder_name": "pit_ti_224:scratch",
            "img_size": 224,
            "activation_checkpointing": True,
        }
    )
    shown = train("--config-file", path, check=2)
    assert "pit_ti_224:scratch: activation_checkpointing is not supported" in shown
    assert not (tmp_path / "out").exists()
