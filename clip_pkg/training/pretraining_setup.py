"""Builds everything one pre-training needs, once, from its task."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError
from clip_pkg.config.pretraining import PretrainConfig
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import Augmentation
from clip_pkg.data.pixel_sources import PixelSource, open_pixels
from clip_pkg.data.sampling import derive_seed
from clip_pkg.data.two_views import SimClrViews, StandardViews, TwoViewBatches, Views
from clip_pkg.losses.two_views import ViewsLoss, build_views_loss
from clip_pkg.models.precision import Precision
from clip_pkg.models.state_dicts import load_strictly
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.tasks import PretrainTask
from clip_pkg.training.compilation import Shapes, compile_image_encoder, part_sizes
from clip_pkg.training.image_forward import Parts, WholeBatch, deal
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.pretraining_model import (
    ViewsModel,
    build_views_model,
    optimizer_factory,
    peak_rate,
)
from clip_pkg.training.pretraining_step import OneEncoderStep, SlowCopyStep, ViewsStep, slow_copy
from clip_pkg.training.pretraining_watch import LabelledLook, labelled_look
from clip_pkg.training.ranks import ALONE
from clip_pkg.training.setup import augmentation_of, host_images, precision_of, splits_of


@dataclass(frozen=True, eq=False)
class PretrainingSetup:
    """One pre-training, ready to run.

    indices: the images that it looks at. slow: of a training with a queue. peak_rate: of the
    learning rate's schedule. look: None where there are no labels to ask about.
    """

    task: PretrainTask
    config: RunConfig
    block: PretrainConfig
    device: torch.device
    pixels: PixelSource
    precision: Precision
    indices: NDArray[np.int64]
    model: ViewsModel
    slow: ViewsModel | None
    loss: ViewsLoss
    optimisation: Optimisation
    step: ViewsStep
    train: TwoViewBatches
    look: LabelledLook | None
    peak_rate: float
    notices: tuple[str, ...]

    @property
    def seed_parts(self) -> tuple[int, int]:
        """What its random numbers depend on, beside the epoch."""
        return self.config.random_state, self.task.fold

    def state(self) -> dict[str, Any]:
        """What training changes, for a checkpoint; the optimiser apart."""
        return {
            "model": _on_cpu(self.model.state_dict()),
            "slow": None if self.slow is None else _on_cpu(self.slow.state_dict()),
            "loss": _on_cpu(self.loss.state_dict()),
        }


def set_up(
    task: PretrainTask, device: torch.device, state: Mapping[str, Any] | None
) -> PretrainingSetup:
    """Build it, new or as the `state` of a checkpoint has it.

    Initial weights of the encoder are those that a fold without a pre-training would start from.

    Raises DataError if there are too few images, and UserError where the encoder has to be
    compiled and cannot be.
    """
    config = task.config
    block = config.pretrain
    assert block is not None, "the task is a pre-training"
    manifest = Manifest.from_json(json.loads(task.manifest_file.read_text(encoding="utf-8")))
    splits = splits_of(task, manifest)
    indices = next(fold for fold in splits.folds if fold.number == task.fold).train
    if len(indices) < block.loss.smallest_batch:
        raise DataError(
            f"{task.display_name}: {len(indices)} images make no batch; the loss needs at least "
            f"{block.loss.smallest_batch}"
        )
    built = _build(config, block, fold=task.fold, device=device, state=state)
    model, precision = built.model, built.precision
    # The images' squares are those of the task's augmentation, whichever makes the views.
    augmentation = augmentation_of(config, model.image_encoder, device, precision)
    pixels = open_pixels(host_images(task.pixel_store, config, manifest), device)
    train = TwoViewBatches(
        pixels,
        manifest.labels,
        indices,
        batch_size=config.batch_size,
        views=_views(
            config=config,
            block=block,
            augmentation=augmentation,
            model=model,
            device=device,
            precision=precision,
        ),
        seed=config.random_state,
        fold=task.fold,
    )
    look = labelled_look(
        config,
        pixels,
        manifest,
        splits,
        indices=indices,
        augmentation=augmentation,
        fold=task.fold,
    )
    rate = peak_rate(block, train.batch_size)
    optimisation = _optimisation(config, block, built, rate=rate, steps=len(train))
    if state is not None and state["optimisation"] is not None:
        optimisation.load_state_dict(state["optimisation"])
    return PretrainingSetup(
        task=task,
        config=config,
        block=block,
        device=device,
        pixels=pixels,
        precision=precision,
        indices=indices,
        model=model,
        slow=built.slow,
        loss=built.loss,
        optimisation=optimisation,
        step=_step(block, built, optimisation, most=task.images_at_once),
        train=train,
        look=look,
        peak_rate=rate,
        notices=(
            *_few_images(config, train, len(indices)),
            *_compiled(task, config, built, train, look),
        ),
    )


@dataclass(frozen=True, eq=False)
class _Built:
    """What learns, on its device and in the state of the checkpoint, and how it computes.

    slow: of a training with a queue.
    """

    model: ViewsModel
    slow: ViewsModel | None
    loss: ViewsLoss
    precision: Precision


def _build(
    config: RunConfig,
    block: PretrainConfig,
    *,
    fold: int,
    device: torch.device,
    state: Mapping[str, Any] | None,
) -> _Built:
    torch.manual_seed(derive_seed(config.random_state, fold, "initial weights"))
    model = build_views_model(config, block, trained=state is not None)
    if state is not None:
        load_strictly(model, state["model"], source="the checkpoint")
    if config.activation_checkpointing:
        model.image_encoder.recompute_activations()
    precision = precision_of(config, device, model.image_encoder)
    model = model.to(device).to(memory_format=precision.memory_format)
    slow = None if block.queue is None else slow_copy(model)
    loss = build_views_loss(block.loss, queue=block.queue, dim=block.projection.dim).to(device)
    if state is not None:
        loss.load_state_dict(state["loss"])
        if slow is not None:
            slow.load_state_dict(state["slow"])
    return _Built(model, slow, loss, precision)


def _optimisation(
    config: RunConfig, block: PretrainConfig, built: _Built, *, rate: float, steps: int
) -> Optimisation:
    """Optimiser and schedule; rate: its peak. steps: of an epoch."""
    return Optimisation(
        built.model.parameter_groups(rate, block.optimizer.weight_decay),
        precision=built.precision,
        total_steps=steps * config.epochs,
        warmup_steps=steps * block.optimizer.warmup_epochs,
        grad_clip_norm=block.grad_clip_norm,
        optimizer=optimizer_factory(block),
    )


def _views(
    *,
    config: RunConfig,
    block: PretrainConfig,
    augmentation: Augmentation,
    model: ViewsModel,
    device: torch.device,
    precision: Precision,
) -> Views:
    if block.augmentation == "standard":
        return StandardViews(augmentation)
    return SimClrViews(
        img_size=config.img_size,
        mean=model.image_encoder.mean,
        std=model.image_encoder.std,
        smallest_crop=block.smallest_crop,
        horizontal_flip=config.horizontal_flip is not False,
        vertical_flip=config.vertical_flip,
        device=device,
        memory_format=precision.memory_format,
    )


def _step(
    block: PretrainConfig, built: _Built, optimisation: Optimisation, *, most: int
) -> ViewsStep:
    """Make the step; most: images in the encoder at once, two views of each."""
    model, precision = built.model, built.precision
    if built.slow is not None:
        assert block.queue is not None, "a slow copy belongs to a queue"
        whole = WholeBatch(model, precision)
        return SlowCopyStep(
            model, built.slow, block.queue.momentum, built.loss, whole, optimisation, precision
        )
    side = (
        WholeBatch(model, precision)
        if most >= block.batch_size
        else Parts(model, model.head, precision, most=2 * most)
    )
    return OneEncoderStep(model, built.loss, side, optimisation, precision)


def _few_images(config: RunConfig, train: TwoViewBatches, images: int) -> Iterator[str]:
    if train.batch_size < config.batch_size:
        yield (
            f"The pre-training has {images} images, fewer than its batch_size of "
            f"{config.batch_size}: every batch was all of them."
        )


def _compiled(
    task: PretrainTask,
    config: RunConfig,
    built: _Built,
    train: TwoViewBatches,
    look: LabelledLook | None,
) -> Iterator[str]:
    """Compile the encoder, not its slow copy, if the config wants it; yields what is to be told."""
    images = train.batch_size if built.slow is not None else 2 * train.batch_size
    whole = built.slow is not None or task.images_at_once >= config.batch_size
    parts = deal(images, None if whole else 2 * task.images_at_once, ranks=1, smallest=2)
    shapes = Shapes(part_sizes(parts), None if look is None else look.batch_size, config.img_size)
    told = compile_image_encoder(
        config.compile,
        built.model,
        built.precision,
        shapes,
        steps=len(train) * config.epochs,
        ranks=ALONE,
    )
    if told is not None:
        yield told


def _on_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.detach().cpu() for name, value in state.items()}
