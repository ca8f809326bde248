"""Inputs of folds and pre-trainings: images, splits, precision and augmentation."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from clip_pkg.base.cores import usable_cores
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import Augmentation
from clip_pkg.data.image_decoder import ImageDecoder
from clip_pkg.data.pixel_sources import HostImages
from clip_pkg.data.pixel_store import PixelStore, store_size
from clip_pkg.models.image_encoder import ImageEncoder
from clip_pkg.models.precision import Precision, choose_precision
from clip_pkg.study.folds_info import splits_from_json
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.splits import Splits, undivided
from clip_pkg.study.tasks import RefitTask, Task
from clip_pkg.training.ranks import ALONE, Ranks


def read_manifest(path: Path) -> Manifest:
    return Manifest.from_json(json.loads(path.read_text(encoding="utf-8")))


def splits_of(task: Task, manifest: Manifest) -> Splits:
    """Folds of a task; one of all images if none is held out."""
    if isinstance(task, RefitTask) or task.folds_info_file is None:
        return undivided(manifest)
    return splits_from_json(task.folds_info_file, manifest)


def precision_of(config: RunConfig, device: torch.device, encoder: ImageEncoder) -> Precision:
    return choose_precision(
        device,
        encoder,
        img_size=config.img_size,
        use_amp=config.use_amp,
        amp_dtype=config.amp_dtype,
    )


def augmentation_of(
    config: RunConfig, encoder: ImageEncoder, device: torch.device, precision: Precision
) -> Augmentation:
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


def host_images(
    store: Path | None, config: RunConfig, manifest: Manifest, ranks: Ranks = ALONE
) -> HostImages:
    """Open the pixel store; without one, decode in this process."""
    if store is not None:
        return PixelStore.open(store, manifest)
    workers = min(config.num_workers, usable_cores())
    # Every rank reads whole batches, so every rank decodes them.
    return ImageDecoder(
        manifest,
        store_size(config.img_size, config.augmentation),
        workers=max(1, workers // ranks.size) if workers else 0,
    )
