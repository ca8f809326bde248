"""Pre-training from its task to its result: every loss, watching, interruptions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clip_pkg.config.schema import RunConfig
from clip_pkg.config.two_view_losses import TWO_VIEW_LOSSES
from clip_pkg.models.checkpoint import load_checkpoint
from clip_pkg.models.image_encoder import build_image_encoder
from clip_pkg.study.tasks import FoldTask
from clip_pkg.training import compilation
from clip_pkg.training.loss_scores import RunningScores
from clip_pkg.training.optimisation import Diverged
from clip_pkg.training.pretraining import EncoderLearner
from clip_pkg.training.trainer import Interrupted
from support.pretraining_tasks import carry_out, task_of

TIMED = ("epoch_seconds", "train_images_per_second")
QUEUE = {"loss": {"type": "info_nce"}, "queue": {"size": 12}}


class After:
    """Becomes true once it was asked `times` times."""

    def __init__(self, times: int) -> None:
        self._left = times

    def __bool__(self) -> bool:
        self._left -= 1
        return self._left < 0


def history(task: FoldTask) -> dict[str, list[float | None]]:
    found = json.loads(task.paths.history.read_text("utf-8"))
    return {name: values for name, values in found.items() if name not in TIMED}


def encoder(task: FoldTask) -> dict[str, Tensor]:
    return load_checkpoint(task.paths.encoder)["image_encoder"]


def assert_alike(one: FoldTask, other: FoldTask) -> None:
    assert history(one) == history(other)
    mine, theirs = encoder(one), encoder(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("kind", TWO_VIEW_LOSSES)
def test_every_loss_leaves_an_encoder_that_a_model_takes(
    kind: str, images: Path, tmp_path: Path
) -> None:
    task = task_of(images, tmp_path, {"loss": {"type": kind}}, fold=1)
    result, log = carry_out(task)
    assert (result.last_epoch, result.n_train, result.n_val) == (2, 15, 0)
    assert result.best_epoch is None
    assert result.chosen_on == "no image"
    columns = json.loads(task.paths.history.read_text("utf-8"))
    assert {len(values) for values in columns.values()} == {2}
    assert columns["knn_acc"][0] is None
    assert result.untrained.keys() == {"knn_acc", "probe_acc"}
    assert 0 <= result.last["probe_acc"] <= 100
    assert result.last["alignment"] >= 0
    spec = RunConfig.model_validate(task.config).image_encoder
    empty = build_image_encoder(spec, img_size=32)
    empty.load_state_dict(encoder(task))
    assert "PRE-TRAINING CONFIGURATION" in log
    assert "Untrained: knn" in log
    assert (task.curves / "train").is_dir()


@pytest.mark.parametrize(
    ("block", "asked"),
    [
        ({}, 1),
        (QUEUE, 5),
        ({"optimizer": {"type": "lars"}, "micro_batch_size": 5}, 4),
    ],
)
def test_interrupted_and_continued_to_the_bit(
    block: Mapping[str, Any], asked: int, images: Path, tmp_path: Path
) -> None:
    """`stop` is asked after each of an epoch's three steps and after the epoch: four times."""
    block = {"epochs": 3, **block}
    whole = task_of(images, tmp_path / "whole", block)
    carry_out(whole)
    cut = task_of(images, tmp_path / "cut", block)
    with pytest.raises(Interrupted):
        carry_out(cut, stop=After(asked))
    assert not cut.paths.encoder.exists()
    _, log = carry_out(cut)
    assert_alike(cut, whole)
    assert ("Resumed after epoch" in log) == (asked > 1)


def test_what_was_finished_but_for_its_result_is_not_trained_again(
    images: Path, tmp_path: Path
) -> None:
    task = task_of(images, tmp_path, {})
    first, _ = carry_out(task)
    task.paths.encoder.unlink()
    second, log = carry_out(task)
    assert "Epoch 3" not in log
    assert (first.last, first.untrained) == (second.last, second.untrained)
    assert task.paths.encoder.exists()


def test_images_whose_labels_may_not_be_seen_are_watched_without(
    images: Path, tmp_path: Path
) -> None:
    result, log = carry_out(task_of(images, tmp_path, {"images": "all"}, fold=1))
    assert (result.fold, result.n_train) == (0, 30)
    assert result.untrained == {}
    assert result.last["knn_acc"] is None
    assert "evaluated without labels" in log


def test_collapse_is_told_with_a_remedy(images: Path, tmp_path: Path) -> None:
    vicreg = {"type": "vicreg", "variance_weight": 0.0, "covariance_weight": 0.0}
    block = {
        "loss": vicreg,
        "epochs": 12,
        "projection": {"layers": 1, "dim": 16},
        "optimizer": {"type": "adamw", "learning_rate": 0.1, "weight_decay": 1.0},
    }
    result, log = carry_out(task_of(images, tmp_path, block))
    assert result.last["effective_rank"] < 2
    (notice,) = result.notices
    assert "collapsed" in notice
    assert "variance_weight" in notice
    assert log.count("WARNING: The features have collapsed") >= 1


def test_a_batch_larger_than_the_images_is_all_of_them(images: Path, tmp_path: Path) -> None:
    result, _ = carry_out(task_of(images, tmp_path, {"batch_size": 64}))
    assert "every batch was all of them" in result.notices[0]


def test_steps_that_are_not_finite_end_it(images: Path, tmp_path: Path) -> None:
    block = {
        "epochs": 12,
        "optimizer": {"type": "sgd", "learning_rate": 100.0},
        "loss": {"type": "vicreg", "invariance_weight": 1e30},
    }
    with pytest.raises(Diverged, match="not finite"):
        carry_out(task_of(images, tmp_path, block))


def gradients(
    images: Path, root: Path, micro: int | None, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Tensor]:
    """Gradients of the first step of a pre-training whose encoder has no batch norm."""
    found: dict[str, Tensor] = {}
    train_on = EncoderLearner.train_on

    def noted(self: EncoderLearner, views: Any, running: RunningScores) -> Any:
        outcome = train_on(self, views, running)
        if not found:
            named = self.model.named_parameters()
            found.update({n: p.grad.clone() for n, p in named if p.grad is not None})
        return outcome

    monkeypatch.setattr(EncoderLearner, "train_on", noted)
    block = {"micro_batch_size": micro, "epochs": 1}
    config = {"image_encoder_name": "test_vit:scratch", "use_amp": False}
    carry_out(task_of(images, root, block, **config))
    monkeypatch.undo()
    return found


def test_micro_batches_have_the_gradients_of_the_whole_batch(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gradients(images, tmp_path / "whole", None, monkeypatch)
    parts = gradients(images, tmp_path / "parts", 3, monkeypatch)
    assert whole.keys() == parts.keys()
    scale = max(float(value.abs().max()) for value in whole.values())
    for name, value in whole.items():
        assert float((value - parts[name]).abs().max()) <= 1e-5 * scale, name


def test_the_slow_copy_follows(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_on, pairs = EncoderLearner.train_on, []

    def noted(self: EncoderLearner, views: Any, running: RunningScores) -> Any:
        assert self.slow is not None
        before = [p.clone() for p in self.slow.parameters()]
        outcome = train_on(self, views, running)
        pairs.append((before, [p.clone() for p in self.slow.parameters()], self.model))
        if len(pairs) == 1:
            for old, new, ours in zip(*pairs[0][:2], self.model.parameters(), strict=True):
                torch.testing.assert_close(new, 0.9 * old + 0.1 * ours.detach())
        return outcome

    monkeypatch.setattr(EncoderLearner, "train_on", noted)
    block = {**QUEUE, "queue": {"size": 12, "momentum": 0.9}}
    carry_out(task_of(images, tmp_path, block))
    assert len(pairs) == 6


def test_looks_change_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = task_of(images, tmp_path / "often", {"probe_every": 1, "epochs": 3})
    never = task_of(images, tmp_path / "never", {"epochs": 3})
    carry_out(often)
    monkeypatch.setattr("clip_pkg.training.build_pretraining.label_probe", lambda *_, **__: None)
    carry_out(never)
    mine, theirs = encoder(often), encoder(never)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert np.isfinite(history(often)["probe_acc"]).all()


@pytest.mark.parametrize(
    ("block", "sizes"),
    [
        (QUEUE, {8}),
        ({"micro_batch_size": 3, "images": "all"}, {5, 6}),  # both views of eight images
    ],
)
def test_a_compiled_encoder_learns_the_same(
    block: Mapping[str, Any],
    sizes: set[int],
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        traced.append(next(len(value) for value in inputs if value.shape[1:] == (3, 32, 32)))
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", backend)
    eager = task_of(images, tmp_path / "eager", block, compile=False)
    assert carry_out(eager)[0].notices == []
    assert traced == []
    compiled = task_of(images, tmp_path / "compiled", block, compile=True)
    (notice,) = carry_out(compiled)[0].notices
    assert "was compiled" in notice
    assert sizes <= set(traced)
    ours, theirs = encoder(compiled), encoder(eager)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-4)


def test_its_gradients_are_clipped_by_a_key_of_its_own(images: Path, tmp_path: Path) -> None:
    def after_one_step(clip: float | None) -> dict[str, Tensor]:
        sgd = {"type": "sgd", "learning_rate": 1e-3, "weight_decay": 0.0, "warmup_epochs": 0.0}
        block = {"epochs": 1, "batch_size": 15, "optimizer": sgd, "grad_clip_norm": clip}
        task = task_of(images, tmp_path / str(clip), block, fold=1, grad_clip_norm=1e-9)
        carry_out(task)
        return encoder(task)

    def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
        return max(
            float((one[name] - other[name]).abs().max())
            for name in one
            if "running" not in name and "num_batches" not in name
        )

    still, free = after_one_step(1e-9), after_one_step(None)
    assert distance(free, still) > 1e-6
    assert distance(after_one_step(1e9), free) == 0
