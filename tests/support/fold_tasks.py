"""Fold tasks and devices that exist on paper only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_pkg.config.schema import RunConfig
from clip_pkg.scheduling.devices import Device
from clip_pkg.study.identity import Identity
from clip_pkg.study.tasks import FoldTask, PretrainTask

CONFIG = RunConfig(epochs=1, img_size=32, batch_size=32)


def task(
    name: str,
    fold: int = 1,
    gpu_id: int | None = None,
    gpus: int = 1,
    encoder: str = "resnet18",
    n_folds: int = 2,
    n_images: int = 30,
    root: Path = Path("run"),
    **config: Any,
) -> FoldTask:
    config = {"name": name, "gpu_id": gpu_id, "image_encoder_name": encoder, **config}
    return FoldTask(
        identity=Identity(name, "d", "s", "t", "k"),
        config=CONFIG.model_copy(update=config),  # not validated: tests draw thousands
        fold=fold,
        n_folds=n_folds,
        run_dir=root / name,
        manifest_file=Path("manifest"),
        folds_info_file=Path("folds"),
        class_texts_file=Path("texts"),
        pixel_store=Path("pixels"),
        cache_dir=Path("cache"),
        n_images=n_images,
        gpus=gpus,
    )


def gpu(number: int) -> Device:
    return Device(str(number), f"GPU-{number}", "fake")


def gpus(count: int) -> list[Device]:
    return [gpu(number) for number in range(count)]


def pretraining(name: str, epochs: int = 1) -> PretrainTask:
    """A pre-training on all images."""
    one = task(name, epochs=epochs)
    return PretrainTask(
        identity=one.identity,
        config=one.config,
        run_dir=one.run_dir,
        manifest_file=one.manifest_file,
        cache_dir=one.cache_dir,
        n_images=one.n_images,
    )


def after(before: PretrainTask, name: str, fold: int = 1, **settings: Any) -> FoldTask:
    """A fold that starts from a pre-training."""
    return replace(task(name, fold, **settings), starts_from=before.run_dir)
