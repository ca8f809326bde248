"""Inputs of folds and pre-trainings: images, splits, precision and augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from clip_pkg.base.cores import usable_cores
from clip_pkg.base.errors import DamagedFile, DataError
from clip_pkg.base.reading import read_json
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.augmentation import Augmentation
from clip_pkg.data.cache import NoRoom
from clip_pkg.data.image_decoder import ImageDecoder
from clip_pkg.data.pixel_sources import HostImages
from clip_pkg.data.pixel_store import PixelStore, StoreError, build_store, store_size
from clip_pkg.models.image_encoder import ImageEncoder
from clip_pkg.models.precision import Precision, choose_precision
from clip_pkg.study.class_texts import ClassTexts
from clip_pkg.study.folds_info import splits_from_json
from clip_pkg.study.identity import digest
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.splits import Splits, undivided
from clip_pkg.study.tasks import ModelTask, PretrainTask, RefitTask, Task
from clip_pkg.training.ranks import ALONE, Ranks

REMEDY = "run the same command again"


@contextmanager
def _restored_by_the_launcher(file: Path) -> Iterator[None]:
    """Whatever keeps an input from being used is damage: the launcher has written it."""
    try:
        yield
    except (FileNotFoundError, DataError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
        raise DamagedFile(file, reason, REMEDY) from None


def _check(file: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise DamagedFile(file, "has another content than the run was started with", REMEDY)


def manifests_of(task: Task) -> tuple[Manifest, Manifest | None]:
    """The images of a task, and its test images if it has any. Raises DamagedFile."""
    files = [task.manifest_file]
    if not isinstance(task, PretrainTask) and task.test_manifest_file is not None:
        files.append(task.test_manifest_file)
    found = []
    for file in files:
        with _restored_by_the_launcher(file):
            found.append(Manifest.from_json(read_json(file, dict[str, Any], REMEDY)))
    marks = [manifest.fingerprint for manifest in found]
    _check(files[-1], marks[0] if len(marks) == 1 else digest(marks), task.identity.data)
    return found[0], found[1] if len(found) > 1 else None


def splits_of(task: Task, manifest: Manifest) -> Splits:
    """Folds of a task; one of all images if none is held out. Raises DamagedFile."""
    file = None if isinstance(task, RefitTask) else task.folds_info_file
    if file is None:
        return undivided(manifest)
    with _restored_by_the_launcher(file):
        splits = splits_from_json(file, manifest)
    is_shared = isinstance(task, PretrainTask)
    mark = digest([splits.hash, task.fold]) if is_shared else splits.hash
    _check(file, mark, task.identity.splits)
    return splits


def texts_of(task: ModelTask) -> ClassTexts:
    """Class texts of a task. Raises DamagedFile."""
    file = task.class_texts_file
    with _restored_by_the_launcher(file):
        texts = ClassTexts.from_json(read_json(file, dict[str, Any], REMEDY))
    _check(file, texts.digest, task.identity.class_texts)
    return texts


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
    task: Task,
    store: Path | None,
    manifest: Manifest,
    remarks: list[str],
    ranks: Ranks = ALONE,
) -> HostImages:
    """Open the pixel store, built again if it was lost or damaged; without one, decode here.

    remarks: receives lines for the log.
    """
    config = task.config
    size = store_size(config.img_size, config.augmentation)
    workers = min(config.num_workers, usable_cores())
    if store is not None:
        try:
            return PixelStore.open(store, manifest, notify=remarks.append)
        except StoreError as problem:
            remarks.append(f"NOTE: {problem}; decoding the images again")
        try:
            build_store(manifest, size, store.parent, workers=workers, limit=task.cache_limit)
            return PixelStore.open(store, manifest, notify=remarks.append)
        except (NoRoom, StoreError) as problem:
            remarks.append(f"NOTE: {problem}; this fold decodes its images in every epoch")
    # Every rank reads whole batches, so every rank decodes them.
    return ImageDecoder(manifest, size, workers=max(1, workers // ranks.size) if workers else 0)
