"""Fold tasks and devices that exist on paper only."""

from __future__ import annotations

from dataclasses import replace

from clip_pkg.scheduling.devices import Device
from clip_pkg.study.tasks import FoldTask, Identity


def task(
    name: str,
    fold: int = 1,
    gpu_id: int | None = None,
    gpus: int = 1,
    epochs: int = 1,
    encoder: str = "r",
    n_folds: int = 2,
    img_size: int = 32,
    n_images: int = 30,
) -> FoldTask:
    config = {
        "name": name,
        "gpu_id": gpu_id,
        "epochs": epochs,
        "img_size": img_size,
        "image_encoder_name": encoder,
        "batch_size": 32,
        "freeze_image_encoder": False,
    }
    identity = Identity(name, "d", "s", "t", "k")
    files = ("manifest", "folds", "texts", "pixels", "cache")
    return FoldTask(identity, config, fold, n_folds, f"run/{name}", *files, n_images, gpus)


def gpu(number: int) -> Device:
    return Device(str(number), f"GPU-{number}", "fake")


def gpus(count: int) -> list[Device]:
    return [gpu(number) for number in range(count)]


def pretraining(name: str, epochs: int = 1) -> FoldTask:
    """A pre-training that looks at all images."""
    return replace(task(name, fold=0, epochs=epochs), stage="pretraining", folds_info_file=None)


def after(before: FoldTask, name: str, fold: int = 1, **settings: int) -> FoldTask:
    """A fold that starts from a pre-training."""
    return replace(task(name, fold, **settings), starts_from=before.run_dir)
