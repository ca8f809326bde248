"""Builds everything one fold trains with, once, from its task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clip_pkg.base.errors import DataError
from clip_pkg.base.paths import FoldPaths
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import Augmentation, LabelMixing
from clip_pkg.data.batches import EvalBatches, TrainBatches
from clip_pkg.data.image_decoder import ImageDecoder
from clip_pkg.data.pixel_sources import HostImages, PixelSource, open_pixels
from clip_pkg.data.pixel_store import PixelStore, store_size
from clip_pkg.data.sampling import class_weights, derive_seed
from clip_pkg.data.text_cache import TextCache
from clip_pkg.losses.contract import Objective
from clip_pkg.models.checkpoint import load_checkpoint
from clip_pkg.models.classifier import objective_for
from clip_pkg.models.image_encoder import ImageEncoder
from clip_pkg.models.image_text import ImageTextModel, build_model
from clip_pkg.models.precision import Precision, choose_precision
from clip_pkg.models.state_dicts import load_strictly
from clip_pkg.scheduling.devices import usable_cores
from clip_pkg.study.class_texts import ClassTexts
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.splits import Splits, inner_split, splits_from_json, undivided
from clip_pkg.study.tasks import ModelTask, RefitTask, Task
from clip_pkg.training.batch_norm import share_statistics
from clip_pkg.training.compilation import Shapes, compile_image_encoder, part_sizes
from clip_pkg.training.image_forward import ImageSide, Parts, WholeBatch, deal
from clip_pkg.training.notices import fold_notices
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class FoldModel:
    """What a fold trains, in the memory format of its precision.

    remarks: for the log, on where the features of a frozen text encoder come from.
    """

    model: ImageTextModel
    objective: Objective
    precision: Precision
    remarks: tuple[str, ...]


def build_fold_model(
    task: ModelTask,
    config: RunConfig,
    texts: ClassTexts,
    class_counts: Sequence[int],
    *,
    device: torch.device,
    state: Mapping[str, Tensor] | None,
    ranks: Ranks,
) -> FoldModel:
    """Build them; `state` of a checkpoint takes the place of initial or pretrained weights.

    class_counts: images per class that the fold trains on, [C]. Of several ranks all have the
    weights of the first one.

    Initial weights depend on (random_state, fold) alone, so that configs that differ only in
    their loss start from the same model. Those of a text tower that is not trained depend on
    random_state alone: one run of it serves all folds.
    """
    remarks: list[str] = []
    cache = TextCache(task.cache_dir, task.cache_limit, remarks.append)
    torch.manual_seed(derive_seed(config.random_state, task.fold, "initial weights"))
    model = build_model(
        config,
        texts.classes,
        texts.prompts,
        state=state,
        text_seed=derive_seed(config.random_state, "frozen text encoder"),
        text_features=cache.features,
    )
    if state is None and task.starts_from is not None:
        remarks.append(_start_from(FoldPaths(task.starts_from).encoder, model))
    model = model.to(device)
    if ranks.are_several and device.type == "cuda" and not config.freeze_image_encoder:
        share_statistics(model.image_encoder)
    if config.activation_checkpointing:
        model.image_encoder.recompute_activations()
    precision = precision_of(config, device, model.image_encoder)
    model = model.to(memory_format=precision.memory_format)
    objective = objective_for(config, class_counts, model.vocabulary_size).to(device)
    for module in (model, objective):
        ranks.copy_from_leader([*module.parameters(), *module.buffers()])
    return FoldModel(model, objective, precision, tuple(remarks))


def _start_from(encoder: Path, model: ImageTextModel) -> str:
    """Give the image encoder the weights of a pre-training; returns what is to be told."""
    content = load_checkpoint(encoder)
    load_strictly(model.image_encoder, content["image_encoder"], source=str(encoder))
    return f"The image encoder starts from {encoder}, pre-trained for {content['epoch']} epochs"


def precision_of(config: RunConfig, device: torch.device, encoder: nn.Module) -> Precision:
    """Choose the precision that a config asks for, of an encoder on a device."""
    return choose_precision(
        device,
        encoder,
        img_size=config.img_size,
        use_amp=config.use_amp,
        amp_dtype=config.amp_dtype,
    )


Side: TypeAlias = Literal["val", "inner", "test"]


@dataclass(frozen=True)
class EvalSide:
    """Images of a manifest that are only looked at, with the order in which their loss is computed.

    Of several ranks each has batches of its share of them.
    """

    manifest: Manifest
    batches: EvalBatches
    loss_order: Tensor

    @property
    def size(self) -> int:
        """Number of images."""
        return int(self.loss_order.numel())


@dataclass(frozen=True)
class FoldSetup:
    """One fold, ready to train. `inner` chooses the epoch where the config asks for it.

    val: the images held out, none of a task that holds out none. test: images that are looked at
    once, in the end. pixels, test_pixels: what the batches are made of. notices: for everybody who
    reads the result. remarks: for the log.
    """

    task: ModelTask
    config: RunConfig
    device: torch.device
    pixels: PixelSource
    ranks: Ranks
    precision: Precision
    manifest: Manifest
    texts: ClassTexts
    train_indices: NDArray[np.int64]
    model: ImageTextModel
    image_side: ImageSide
    objective: Objective
    optimisation: Optimisation
    augmentation: Augmentation
    mixing: LabelMixing
    train: TrainBatches
    val: EvalSide
    inner: EvalSide | None
    test: EvalSide | None
    test_pixels: PixelSource | None
    notices: tuple[str, ...]
    remarks: tuple[str, ...]

    def side(self, name: Side) -> EvalSide:
        """One of the sides that are only looked at."""
        side = {"val": self.val, "inner": self.inner, "test": self.test}[name]
        assert side is not None, f"the config asks for no {name} images"
        return side

    def close(self) -> None:
        """Let go of files and processes."""
        for pixels in (self.pixels, self.test_pixels):
            if pixels is not None:
                pixels.close()

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Images per class of the training side, [C]."""
        return _counts(self.manifest, self.train_indices)


def read_inputs(task: ModelTask) -> tuple[Manifest, ClassTexts]:
    """Read what the launcher wrote for all folds of a config."""
    manifest = Manifest.from_json(json.loads(task.manifest_file.read_text(encoding="utf-8")))
    texts = ClassTexts.from_json(json.loads(task.class_texts_file.read_text(encoding="utf-8")))
    return manifest, texts


def set_up(
    task: ModelTask,
    device: torch.device,
    model_state: Mapping[str, Tensor] | None = None,
    ranks: Ranks = ALONE,
) -> FoldSetup:
    """Build model, objective, optimiser and batches of a fold; of several ranks, all at once.

    `model_state` of a checkpoint takes the place of initial or pretrained weights; see
    `build_fold_model`. The order of the images depends on (random_state, fold) alone as well.
    """
    config = task.config
    manifest, texts = read_inputs(task)
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
    built = build_fold_model(
        task,
        config,
        texts,
        _counts(manifest, train_indices).tolist(),
        device=device,
        state=model_state,
        ranks=ranks,
    )
    model, objective, precision = built.model, built.objective, built.precision
    pixels = open_pixels(host_images(task.pixel_store, config, manifest, ranks), device)
    test, test_pixels = _test_manifest(task), None
    if test is not None:
        images = host_images(task.test_pixel_store, config, test, ranks)
        test_pixels = open_pixels(images, device, resident=False)  # they come by once
    augmentation = augmentation_of(config, model.image_encoder, device, precision)
    train = TrainBatches(
        pixels,
        manifest.labels,
        train_indices,
        batch_size=config.batch_size,
        augmentation=augmentation,
        weights=_sampling_weights(config, manifest, train_indices),
        seed=config.random_state,
        fold=task.fold,
    )
    if len(train_indices) < config.smallest_batch:
        raise DataError(
            f"{task.display_name}: {len(train_indices)} training images make no batch; "
            f"the loss needs at least {config.smallest_batch}"
        )

    most = _in_parts(task)

    def eval_side(
        indices: NDArray[np.int64],
        purpose: str,
        images: Manifest = manifest,
        source: PixelSource = pixels,
    ) -> EvalSide:
        batches = EvalBatches(
            source,
            images.labels,
            indices[ranks.share(len(indices))],
            batch_size=config.batch_size,
            augmentation=augmentation,
            most=None if most is None else -(-most // ranks.size),
        )
        generator = torch.Generator()
        generator.manual_seed(derive_seed(config.random_state, task.fold, f"loss order {purpose}"))
        return EvalSide(images, batches, torch.randperm(len(indices), generator=generator))

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
        total_steps=len(train) * config.epochs,
        warmup_steps=len(train) * config.warmup_epochs,
        grad_clip_norm=config.grad_clip_norm,
    )
    val = eval_side(fold.val, "val")
    compiled = compile_image_encoder(
        False
        if config.compile == "auto" and images_stand_still(config, augmentation)
        else config.compile,
        model,
        precision,
        Shapes(
            part_sizes(deal(config.batch_size, most, ranks=1, smallest=2)),
            val.batches.batch_size,
            config.img_size,
        ),
        steps=len(train) * config.epochs,
        ranks=ranks,
    )
    return FoldSetup(
        task=task,
        config=config,
        device=device,
        pixels=pixels,
        ranks=ranks,
        precision=precision,
        manifest=manifest,
        texts=texts,
        train_indices=train_indices,
        model=model,
        image_side=(
            Parts(model, objective, precision, most=most, ranks=ranks)
            if most is not None or ranks.are_several
            else WholeBatch(model, precision)
        ),
        objective=objective,
        optimisation=optimisation,
        augmentation=augmentation,
        mixing=LabelMixing(
            len(manifest.classes),
            mixup_alpha=config.mixup_alpha,
            cutmix_alpha=config.cutmix_alpha,
            label_smoothing=config.label_smoothing,
        ),
        train=train,
        val=val,
        inner=None if inner_indices is None else eval_side(inner_indices, "inner"),
        test=(
            None
            if test is None or test_pixels is None
            else eval_side(np.arange(len(test)), "test", test, test_pixels)
        ),
        test_pixels=test_pixels,
        notices=(*fold_notices(task, config, model, ranks), *([compiled] if compiled else [])),
        remarks=built.remarks,
    )


def images_stand_still(config: RunConfig, augmentation: Augmentation) -> bool:
    """Whether a frozen encoder is to see the very same images in every epoch."""
    mixes = config.mixup_alpha > 0 or config.cutmix_alpha > 0
    return config.freeze_image_encoder and not augmentation.varies and not mixes


def augmentation_of(
    config: RunConfig, encoder: ImageEncoder, device: torch.device, precision: Precision
) -> Augmentation:
    """Make the transforms that a config asks for, of images for an encoder on a device."""
    return Augmentation(
        config.augmentation,
        img_size=config.img_size,
        mean=encoder.mean,
        std=encoder.std,
        horizontal_flip=config.flips_horizontally,
        vertical_flip=config.vertical_flip,
        device=device,
        memory_format=precision.memory_format,
    )


def splits_of(task: Task, manifest: Manifest) -> Splits:
    """Read the folds of a task; one of all images where none is held out."""
    if isinstance(task, RefitTask) or task.folds_info_file is None:
        return undivided(manifest)
    return splits_from_json(task.folds_info_file, manifest)


def _test_manifest(task: ModelTask) -> Manifest | None:
    if task.test_manifest_file is None:
        return None
    text = task.test_manifest_file.read_text(encoding="utf-8")
    return Manifest.from_json(json.loads(text))


def host_images(
    store: Path | None, config: RunConfig, manifest: Manifest, ranks: Ranks = ALONE
) -> HostImages:
    """Open the store, or decode here where the launcher found no room for one."""
    if store is not None:
        return PixelStore.open(store, manifest)
    workers = min(config.num_workers, usable_cores())
    # Every rank reads whole batches, so every rank decodes them.
    return ImageDecoder(
        manifest,
        store_size(config.img_size, config.augmentation),
        workers=max(1, workers // ranks.size) if workers else 0,
    )


def _counts(manifest: Manifest, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(manifest.labels[indices], minlength=len(manifest.classes))


def _sampling_weights(
    config: RunConfig, manifest: Manifest, train_indices: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Weight of each class in the sampler; None for a plain shuffle."""
    if not config.use_weighted_sampling:
        return None
    counts = _counts(manifest, train_indices)
    return class_weights(counts, config.weight_method, config.weight_smooth_factor)


def _in_parts(task: ModelTask) -> int | None:
    """How many images of a batch go through the encoder at once; None for all."""
    size = task.images_at_once
    return None if size == task.config.batch_size else size
