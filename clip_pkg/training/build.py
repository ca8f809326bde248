"""The composition root: builds everything that a task trains with, once, in the order of need."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clip_pkg.base.errors import CheckpointError, DamagedFile, DataError, UserError
from clip_pkg.base.paths import FoldPaths
from clip_pkg.data.augmentation import LabelMixing
from clip_pkg.data.batches import EvalBatches, TrainBatches
from clip_pkg.data.pixel_sources import PixelSource, open_pixels
from clip_pkg.data.sampling import derive_seed
from clip_pkg.data.text_cache import TextCache
from clip_pkg.losses.class_weights import class_weights
from clip_pkg.losses.contract import Objective
from clip_pkg.losses.functional.numerics import widest_float
from clip_pkg.models.checkpoint import load_checkpoint
from clip_pkg.models.classifier import objective_for
from clip_pkg.models.image_text import ImageTextModel, build_model
from clip_pkg.models.precision import Precision, flushed_denormals
from clip_pkg.models.state_dicts import load_strictly
from clip_pkg.study.class_texts import ClassTexts
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.splits import inner_split
from clip_pkg.study.tasks import ModelTask, PretrainTask, Task
from clip_pkg.training.banner import fold_notices
from clip_pkg.training.batch_norm import share_statistics
from clip_pkg.training.build_pretraining import build_pretraining
from clip_pkg.training.compilation import Shapes, compile_image_encoder
from clip_pkg.training.fold import EvalSplit, FoldLearner
from clip_pkg.training.frozen_features import features_fit, sees_the_same_images
from clip_pkg.training.image_forward import Embed, MicroBatches, WholeBatch, micro_batch_sizes
from clip_pkg.training.inputs import (
    augmentation_of,
    host_images,
    manifests_of,
    precision_of,
    splits_of,
    texts_of,
)
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.profiling import FoldProfiler, unmeasured
from clip_pkg.training.ranks import ALONE, Ranks
from clip_pkg.training.step import TrainingStep
from clip_pkg.training.trainer import Trainer, state_to_resume


@contextmanager
def trainer_for(task: Task, device: torch.device, ranks: Ranks = ALONE) -> Iterator[Trainer]:
    """A task's trainer, with torch's process-wide settings for training."""
    # cuDNN times kernels once per shape, which makes results vary between runs.
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    with flushed_denormals(), closing(build(task, device, ranks)) as trainer:
        yield trainer


def build(task: Task, device: torch.device, ranks: Ranks = ALONE) -> Trainer:
    """Build a task's trainer, in the state of the task's checkpoint if there is one.

    All ranks build at the same time and get the weights of the first.

    Raises DataError for too few images, CheckpointError if the checkpoint belongs to another run,
    and UserError if the encoder must be compiled and cannot be.
    """
    notices: list[str] = []
    remarks: list[str] = []
    state = state_to_resume(task, notices, remarks)
    if isinstance(task, PretrainTask):
        trainer = build_pretraining(task, device, state)
    else:
        trainer = _build_fold(task, device, ranks, state)
    if state is not None:
        trainer.resume(state)
    trainer.notices += notices
    trainer.remarks += remarks
    return trainer


def _build_fold(
    task: ModelTask, device: torch.device, ranks: Ranks, state: Mapping[str, Any] | None
) -> Trainer:
    started, config = time.monotonic(), task.config

    # Images, texts and folds.
    manifest, test_images = manifests_of(task)
    texts = texts_of(task)
    splits = splits_of(task, manifest)
    fold = next(fold for fold in splits.folds if fold.number == task.fold)
    train_indices, inner_indices = fold.train, None
    if config.inner_val_fraction > 0:
        train_indices, inner_indices = inner_split(
            manifest,
            fold.train,
            config.inner_val_fraction,
            seed=config.random_state,
            linked=splits.linked,
        )
    if len(train_indices) < config.smallest_batch:
        raise DataError(
            f"{task.display_name}: {len(train_indices)} training images make no batch; "
            f"the loss needs at least {config.smallest_batch}"
        )
    class_counts = np.bincount(manifest.labels[train_indices], minlength=len(manifest.classes))

    remarks: list[str] = []
    model, objective, precision = _build_model(
        task, texts, class_counts, device=device, ranks=ranks, state=state, remarks=remarks
    )

    # Pixels and batches; after the model, because pixels may take a share of the remaining memory.
    pixels = open_pixels(host_images(task, task.pixel_store, manifest, remarks, ranks), device)
    augmentation = augmentation_of(config, model.image_encoder, device, precision)
    batches = TrainBatches(
        pixels,
        manifest.labels,
        train_indices,
        batch_size=config.batch_size,
        augmentation=augmentation,
        weights=(
            class_weights(class_counts, config.weight_method, config.weight_smooth_factor)
            if config.use_weighted_sampling
            else None
        ),
        seed=config.random_state,
        fold=task.fold,
    )
    max_images = None if task.images_at_once == config.batch_size else task.images_at_once

    def split(
        name: str,
        indices: NDArray[np.int64],
        images: Manifest = manifest,
        source: PixelSource = pixels,
    ) -> EvalSplit:
        generator = torch.Generator()
        generator.manual_seed(derive_seed(config.random_state, task.fold, f"loss order {name}"))
        return EvalSplit(
            images,
            EvalBatches(
                source,
                images.labels,
                indices[ranks.share(len(indices))],
                batch_size=config.batch_size,
                augmentation=augmentation,
                most=None if max_images is None else -(-max_images // ranks.size),
            ),
            torch.randperm(len(indices), generator=generator),
        )

    val = split("val", fold.val)
    inner = None if inner_indices is None else split("inner", inner_indices)
    test, sources = None, [pixels]
    if test_images is not None:
        store = host_images(task, task.test_pixel_store, test_images, remarks, ranks)
        sources.append(open_pixels(store, device, resident=False))  # they are read only once
        test = split("test", np.arange(len(test_images)), test_images, sources[-1])

    # Optimisation and step.
    steps = len(batches) * config.epochs
    optimisation = Optimisation(
        [
            *model.parameter_groups(
                config.learning_rate,
                config.weight_decay,
                image_lr_scale=config.image_lr_scale,
                text_lr_scale=config.text_lr_scale,
            ),
            *objective.parameter_groups(config.learning_rate, config.weight_decay),
        ],
        precision=precision,
        total_steps=steps,
        warmup_steps=len(batches) * config.warmup_epochs,
        grad_clip_norm=config.grad_clip_norm,
    )
    never_changes = sees_the_same_images(config, augmentation)
    compiled = compile_image_encoder(
        False if config.compile == "auto" and never_changes else config.compile,
        model,
        precision,
        Shapes(
            micro_batch_sizes(config.batch_size, max_images),
            val.batches.batch_size,
            config.img_size,
        ),
        steps=steps,
        ranks=ranks,
    )
    embed: Embed = WholeBatch(model, precision)
    if max_images is not None or ranks.are_several:
        embed = MicroBatches(model, objective, precision, max_images=max_images, ranks=ranks)
    profiler = (
        FoldProfiler(
            task,
            device,
            ranks=ranks.size,
            steps=len(batches),
            images=len(batches.order(1)),
            epochs_done=0 if state is None else int(state["epoch"]),
        )
        if task.profile
        else None
    )
    step = TrainingStep(
        model,
        objective,
        embed,
        optimisation,
        precision=precision,
        mixing=LabelMixing(
            len(manifest.classes),
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
            label_smoothing=config.label_smoothing,
        ),
        needs_tokens=config.needs_tokens,
        prompt_generator=torch.Generator(),
        negatives_generator=torch.Generator(device),
        phases=profiler.phases if profiler else unmeasured,
    )

    # Features of a frozen encoder are computed once, unless batches are split into micro-batches or
    # over ranks, or the encoder was compiled.
    feature_batches = None
    if never_changes and isinstance(embed, WholeBatch) and not model.image_encoder.is_compiled:
        seen = [train_indices, fold.val, *([] if inner_indices is None else [inner_indices])]
        every = np.unique(np.concatenate(seen))
        if features_fit(len(every), model.image_encoder.num_features, device):
            feature_batches = EvalBatches(
                pixels,
                manifest.labels,
                every,
                batch_size=config.batch_size,
                augmentation=augmentation,
            )

    learner = FoldLearner(
        task=task,
        step=step,
        batches=batches,
        val=val,
        inner=inner,
        test=test,
        manifest=manifest,
        texts=texts,
        train_indices=train_indices,
        store_size=augmentation.store_size,
        device=device,
        ranks=ranks,
        feature_batches=feature_batches,
    )
    return Trainer(
        task=task,
        learner=learner,
        device=device,
        precision=precision,
        pixels=sources,
        started=started,
        ranks=ranks,
        profiler=profiler,
        notices=[*fold_notices(task, model, ranks), *([compiled] if compiled else [])],
        remarks=remarks,
    )


def _build_model(
    task: ModelTask,
    texts: ClassTexts,
    class_counts: NDArray[np.int64],
    *,
    device: torch.device,
    ranks: Ranks,
    state: Mapping[str, Any] | None,
    remarks: list[str],
) -> tuple[ImageTextModel, Objective, Precision]:
    """Build model and objective in the memory format of their precision.

    state: of a checkpoint; replaces initial or pretrained weights. Initial weights depend on
    (random_state, fold) alone, so that configs that differ only in their loss start from the same
    model. Those of a frozen text tower depend on random_state alone, so that all folds share its
    features.

    class_counts: training images per class, [C]. remarks: receives lines for the log.
    """
    config = task.config
    torch.manual_seed(derive_seed(config.random_state, task.fold, "initial weights"))
    model = build_model(
        config,
        texts.classes,
        texts.prompts,
        state=None if state is None else state["model"],
        text_seed=derive_seed(config.random_state, "frozen text encoder"),
        text_features=TextCache(task.cache_dir, task.cache_limit, remarks.append).features,
    )
    if state is None and task.starts_from is not None:
        before = FoldPaths(task.starts_from)
        encoder = before.encoder
        try:
            content = load_checkpoint(encoder)
        except CheckpointError as error:
            before.result.unlink(missing_ok=True)  # so that the pre-training is repeated
            raise DamagedFile(encoder, f"cannot be used ({error})", "run again") from None
        load_strictly(model.image_encoder, content["image_encoder"], source=str(encoder))
        remarks.append(
            f"The image encoder starts from {encoder}, pre-trained for {content['epoch']} epochs"
        )
    model = model.to(device)
    if ranks.are_several and device.type == "cuda" and not config.freeze_image_encoder:
        share_statistics(model.image_encoder)
    if config.activation_checkpointing:
        model.image_encoder.recompute_activations()
    precision = precision_of(config, device, model.image_encoder)
    model = model.to(memory_format=precision.memory_format)
    objective = objective_for(config, class_counts.tolist(), model.vocabulary_size)
    needs_float64 = any(one.dtype is torch.float64 for one in objective.buffers())
    if needs_float64 and widest_float(device) is not torch.float64:
        raise UserError(f'"{config.loss.type}" needs float64, which {device} lacks; use --gpus cpu')
    objective = objective.to(device)
    for module in (model, objective):
        ranks.copy_from_leader([*module.parameters(), *module.buffers()])
    return model, objective, precision
