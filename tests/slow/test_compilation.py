"""The compiled image encoder: the same model under the same names, or a sentence why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clip_pkg.base.errors import UserError
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.batches import Batch
from clip_pkg.models.image_text import ImageTextModel, build_model
from clip_pkg.training import compilation
from clip_pkg.training.compilation import PAYS_FROM_STEPS, Shapes, compile_image_encoder
from clip_pkg.training.image_forward import MicroBatches, WholeBatch, micro_batch_sizes
from clip_pkg.training.ranks import ALONE, Ranks
from support.tiny import TINY
from support.training_steps import CLASSES, FLOAT32, MICRO, PROMPTS, a_batch, build, distance, step

NEEDS_GXX = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
SHAPES = Shapes(frozenset({8}), 8, 32)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trace as ever, but compile nothing; returns the batch size of each graph."""
    sizes: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        sizes.append(
            next(len(value) for value in inputs if value.ndim == 4 and value.shape[1] == 3)
        )
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", backend)
    return sizes


def compiled(
    model: ImageTextModel, shapes: Shapes = SHAPES, wanted: bool | str = True
) -> str | None:
    return compile_image_encoder(wanted, model, FLOAT32, shapes, steps=10**6, ranks=ALONE)


def as_trained(batch: Batch) -> Batch:
    """Lay a batch out as the engine does."""
    return replace(batch, images=batch.images.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("encoder", ["test_resnet:scratch", "test_vit:scratch"])
def test_nothing_differs_and_nothing_is_renamed(encoder: str, graphs: list[int]) -> None:
    eager, traced = (build("clip", (), torch.float32, 0.3, encoder) for _ in range(2))
    names = list(traced[0].state_dict())
    drawn = torch.random.get_rng_state()
    note = compiled(traced[0])
    assert note is not None
    assert "was compiled" in note
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert list(traced[0].state_dict()) == names
    for key, value in eager[0].state_dict().items():
        assert torch.equal(traced[0].state_dict()[key], value), key
    assert all(parameter.grad is None for parameter in traced[0].parameters())
    assert traced[0].training


def test_steps_and_evaluations_are_those_of_the_eager_encoder(graphs: list[int]) -> None:
    eager, traced = (build("clip", (), torch.float32, 0.3) for _ in range(2))
    compiled(traced[0])
    before = len(graphs)
    for size in (8, 8, 5):  # the last batch of an epoch is smaller
        for model, objective in (eager, traced):
            step(model, objective, WholeBatch(model, FLOAT32), as_trained(a_batch(size=size)))
        assert distance(traced, eager) <= 1e-5
    with torch.inference_mode():
        for model, _ in (eager, traced):
            model.eval()
        images = as_trained(a_batch()).images
        torch.testing.assert_close(
            traced[0].image_features(images), eager[0].image_features(images)
        )
    assert set(graphs) == {8}
    assert len(graphs) == before  # all was compiled before training began


def test_micro_batches_are_compiled_by_their_sizes(graphs: list[int]) -> None:
    sizes = micro_batch_sizes(8, MICRO)
    assert sizes == {2, 3}
    eager, traced = (build("clip", (), torch.float32, 0.0) for _ in range(2))
    compiled(traced[0], Shapes(sizes, 3, 32))
    for model, objective in (eager, traced):
        step(model, objective, MicroBatches(model, objective, FLOAT32, max_images=MICRO), a_batch())
    assert distance(traced, eager) <= 1e-5
    assert set(graphs) == sizes


def test_all_folds_of_a_process_are_compiled(graphs: list[int]) -> None:
    with torch._dynamo.config.patch(recompile_limit=2):  # then torch gives up
        for number in range(3):
            compiled(build("clip", (), torch.float32, 0.0, "test_vit:scratch")[0])
            assert len(graphs) == 2 * (number + 1)


def test_a_frozen_encoder_is_compiled_too(graphs: list[int]) -> None:
    config = RunConfig.model_validate({**TINY, "freeze_image_encoder": True})
    model = build_model(config, CLASSES, PROMPTS)
    assert "was compiled" in (compiled(model) or "")
    assert model.image_embeddings(a_batch().images).requires_grad  # by the projection


def test_what_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(compilation, "BACKEND", broken)
    model, _ = build("clip", (), torch.float32, 0.0)
    with pytest.raises(UserError, match=r"no working C\+\+ compiler found .* false"):
        compiled(model)
    monkeypatch.setattr(compilation, "_pays", lambda *_: True)
    assert (compiled(model, wanted="auto") or "").startswith("The image encoder was not compiled")
    model.image_embeddings(a_batch().images)  # eagerly
    with pytest.raises(UserError, match="several processes"):
        compile_image_encoder(True, model, FLOAT32, SHAPES, steps=1, ranks=Ranks(0, 2))


def test_auto_compiles_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build("clip", (), torch.float32, 0.0)

    def pays(device: str, steps: int, ranks: Ranks = ALONE) -> bool:
        monkeypatch.setattr(compilation, "_device", lambda _: torch.device(device))
        return compilation._pays(steps, model, ranks)

    monkeypatch.setattr(compilation, "find_spec", lambda name: name)
    assert not pays("cpu", PAYS_FROM_STEPS)
    assert pays("cuda", PAYS_FROM_STEPS)
    assert not pays("cuda", PAYS_FROM_STEPS - 1)
    assert not pays("cuda", PAYS_FROM_STEPS, Ranks(0, 2))
    model.image_encoder.recompute_activations()
    assert not pays("cuda", PAYS_FROM_STEPS)
    monkeypatch.setattr(compilation, "find_spec", lambda name: None)
    assert not pays("cuda", PAYS_FROM_STEPS)
    assert compiled(model, wanted=False) is None
    assert f"{PAYS_FROM_STEPS} steps" in str(RunConfig.model_fields["compile"].description)


def test_memory_that_is_short_is_not_the_compilers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(self: ImageTextModel, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model, _ = build("clip", (), torch.float32, 0.0)
    monkeypatch.setattr(ImageTextModel, "image_embeddings", short)
    with pytest.raises(torch.OutOfMemoryError):
        compiled(model)


def test_a_compiled_run_has_the_names_and_scores_of_an_eager_one(
    graphs: list[int], train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    config = {"name": "a", "use_cv": False, "use_amp": False, "use_superclip_loss": True}
    config |= {"mixup_alpha": 0.2}
    train("--config-file", write_configs({**config, "compile": False}), output="eager")
    train("--config-file", write_configs({**config, "compile": True}), output="compiled")
    assert len(graphs) == 2  # one to train, one to look, for all epochs
    eager, traced = (
        torch.load(tmp_path / run / "a/fold_1/checkpoint_best.pth", weights_only=True)
        for run in ("eager", "compiled")
    )
    assert eager["model"].keys() == traced["model"].keys()
    for key, value in eager["model"].items():
        torch.testing.assert_close(traced["model"][key], value, rtol=1e-4, atol=1e-5)
    notices = json.loads((tmp_path / "compiled/a/cv_summary.json").read_text())["notices"]
    assert any("was compiled" in notice for notice in notices)


@NEEDS_GXX
@pytest.mark.slow
def test_the_real_compiler_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Kernels that an earlier run kept may be for other instructions than this one is limited to.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    eager, fast = (build("clip", (), torch.float32, 0.0, "test_vit:scratch") for _ in range(2))
    assert "was compiled" in (compiled(fast[0]) or "")
    for size in (8, 8, 5):
        for model, objective in (eager, fast):
            step(model, objective, WholeBatch(model, FLOAT32), a_batch(size=size))
        assert distance(fast, eager) <= 1e-4
    for key, value in eager[0].state_dict().items():
        torch.testing.assert_close(fast[0].state_dict()[key], value, rtol=1e-4, atol=1e-5)
