"""Builds the trainer of a pre-training."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clip_pkg.base.errors import DataError
from clip_pkg.config.pretraining import LarsConfig
from clip_pkg.data.pixel_sources import open_pixels
from clip_pkg.data.sampling import derive_seed
from clip_pkg.data.two_views import SimClrViews, TwoViewBatches
from clip_pkg.losses.registry import build_two_view_loss
from clip_pkg.models.image_encoder import build_image_encoder
from clip_pkg.models.state_dicts import load_strictly
from clip_pkg.study.tasks import PretrainTask
from clip_pkg.training.compilation import Shapes, compile_image_encoder
from clip_pkg.training.image_forward import Embed, MicroBatches, WholeBatch, micro_batch_sizes
from clip_pkg.training.inputs import (
    augmentation_of,
    host_images,
    manifests_of,
    precision_of,
    splits_of,
)
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.pretraining import (
    LARS_BATCH,
    EncoderLearner,
    ViewsModel,
    optimizer_factory,
)
from clip_pkg.training.pretraining_measures import label_probe
from clip_pkg.training.ranks import ALONE
from clip_pkg.training.trainer import Trainer


def build_pretraining(
    task: PretrainTask, device: torch.device, state: Mapping[str, Any] | None
) -> Trainer:
    started, config = time.monotonic(), task.config
    block = config.pretrain
    assert block is not None, "the task is a pre-training"

    # Images.
    manifest, _ = manifests_of(task)
    splits = splits_of(task, manifest)
    indices = next(fold for fold in splits.folds if fold.number == task.fold).train
    if len(indices) < block.loss.smallest_batch:
        raise DataError(
            f"{task.display_name}: {len(indices)} images make no batch; the loss needs at least "
            f"{block.loss.smallest_batch}"
        )

    # Model and loss. The encoder has the initial weights of a fold without a pre-training; those of
    # a checkpoint replace any, so that no weights file is needed.
    torch.manual_seed(derive_seed(config.random_state, task.fold, "initial weights"))
    encoder = build_image_encoder(
        config.image_encoder if state is None else config.image_encoder.untrained,
        img_size=config.img_size,
        weights_dir=Path(config.weights_dir).expanduser() if config.weights_dir else None,
        stem=config.stem,
    )
    model = ViewsModel(encoder, block.projection).train()
    if state is not None:
        load_strictly(model, state["model"], source="the checkpoint")
    if config.activation_checkpointing:
        model.image_encoder.recompute_activations()
    precision = precision_of(config, device, model.image_encoder)
    model = model.to(device).to(memory_format=precision.memory_format)
    slow = None
    if block.queue is not None:
        slow = copy.deepcopy(model).requires_grad_(requires_grad=False)
    loss = build_two_view_loss(block.loss, queue=block.queue, dim=block.projection.dim).to(device)

    # Pixels and batches. Stored squares have the size of the config's augmentation.
    remarks: list[str] = []
    pixels = open_pixels(host_images(task, task.pixel_store, manifest, remarks), device)
    augmentation = augmentation_of(config, model.image_encoder, device, precision)
    batches = TwoViewBatches(
        pixels,
        manifest.labels,
        indices,
        batch_size=config.batch_size,
        views=(
            augmentation
            if block.augmentation == "standard"
            else SimClrViews(
                img_size=config.img_size,
                mean=model.image_encoder.mean,
                std=model.image_encoder.std,
                smallest_crop=block.smallest_crop,
                horizontal_flip=config.horizontal_flip is not False,
                vertical_flip=config.vertical_flip,
                device=device,
                memory_format=precision.memory_format,
            )
        ),
        seed=config.random_state,
        fold=task.fold,
    )
    probe = label_probe(
        config,
        pixels,
        manifest,
        splits,
        indices=indices,
        augmentation=augmentation,
        fold=task.fold,
    )

    # Optimisation and step. With a slow copy each view is a batch of its own, never split up.
    rate, steps = block.optimizer.learning_rate, len(batches) * config.epochs
    if isinstance(block.optimizer, LarsConfig):
        rate = rate * batches.batch_size / LARS_BATCH
    optimisation = Optimisation(
        model.parameter_groups(rate, block.optimizer.weight_decay),
        precision=precision,
        total_steps=steps,
        warmup_steps=len(batches) * block.optimizer.warmup_epochs,
        grad_clip_norm=block.grad_clip_norm,
        optimizer=optimizer_factory(block),
    )
    max_images = None
    if slow is None and task.images_at_once < config.batch_size:
        max_images = 2 * task.images_at_once  # two views of each
    embed: Embed = WholeBatch(model, precision)
    if max_images is not None:
        embed = MicroBatches(model, model.head, precision, max_images=max_images)
    notices = []
    if batches.batch_size < config.batch_size:
        notices.append(
            f"The pre-training has {len(indices)} images, fewer than its batch_size of "
            f"{config.batch_size}: every batch was all of them."
        )
    compiled = compile_image_encoder(  # not the slow copy
        config.compile,
        model,
        precision,
        Shapes(
            micro_batch_sizes(batches.batch_size * (2 if slow is None else 1), max_images),
            None if probe is None else probe.fitted.batch_size,
            config.img_size,
        ),
        steps=steps,
        ranks=ALONE,
    )
    if compiled is not None:
        notices.append(compiled)

    learner = EncoderLearner(
        task=task,
        block=block,
        model=model,
        slow=slow,
        loss=loss,
        embed=embed,
        optimisation=optimisation,
        precision=precision,
        batches=batches,
        probe=probe,
        images=indices,
        peak_rate=rate,
    )
    return Trainer(
        task=task,
        learner=learner,
        device=device,
        precision=precision,
        pixels=[pixels],
        started=started,
        notices=notices,
        remarks=remarks,
    )
