"""The tasks of a run: one per fold, refit and pre-training, each with a file for its worker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_pkg.base.paths import ConfigPaths
from clip_pkg.launch.pixels import pixel_store, pretraining_store
from clip_pkg.launch.request import RunFolders
from clip_pkg.launch.terminal import Terminal
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.preflight import PreparedConfig
from clip_pkg.study.tasks import (
    ALL_IMAGES,
    FoldTask,
    ModelTask,
    PretrainTask,
    RefitTask,
    Task,
    finished,
    write_task,
)


def fold_tasks(
    configs: Sequence[PreparedConfig],
    folders: RunFolders,
    *,
    resume_from: Path | None = None,
    stores: Collection[Path] = (),
) -> list[ModelTask]:
    """One task per config and fold, in the order of the configs; nothing is written.

    stores: the pixel stores that there are; tasks without one decode their images themselves.
    """
    run, cache = folders.run, folders.cache
    tasks: list[ModelTask] = []
    for one in configs:
        paths = run.config(one.config.name)
        manifests = _manifest_files(cache, one)
        found = [pixel_store(one, images, cache) for images in one.image_sets]
        pixels = [store if store in stores else None for store in found]
        for fold in one.splits.folds:
            pretraining = one.pretraining(fold.number)
            shared: dict[str, Any] = {
                "identity": one.identity,
                "config": one.config,
                "run_dir": paths.root,
                "manifest_file": manifests[0],
                "class_texts_file": paths.class_texts,
                "pixel_store": pixels[0],
                "cache_dir": cache,
                "n_images": len(one.manifest.paths),
                "gpus": one.config.gpus_per_task,
                "resume_from": _resume_source(resume_from, fold.number),
                "starts_from": pretraining and run.pretraining / pretraining.name,
                "test_manifest_file": None if one.test is None else manifests[1],
                "test_pixel_store": None if one.test is None else pixels[1],
            }
            if len(fold.val):
                task: ModelTask = FoldTask(
                    fold=fold.number,
                    n_folds=len(one.splits.folds),
                    folds_info_file=paths.folds_info,
                    **shared,
                )
            else:
                task = RefitTask(**shared)
            tasks.append(task)
    return tasks


def pretraining_tasks(
    configs: Sequence[PreparedConfig], folders: RunFolders, *, stores: Collection[Path] = ()
) -> list[PretrainTask]:
    """One task per pre-training that any fold starts from; nothing is written."""
    run, cache = folders.run, folders.cache
    tasks: dict[str, PretrainTask] = {}
    for one in configs:
        for name, pretraining in one.pretrainings.items():
            store = pretraining_store(pretraining, cache)
            is_divided = pretraining.fold != ALL_IMAGES
            folds_info = run.config(one.config.name).folds_info
            task = PretrainTask(
                identity=pretraining.identity,
                config=pretraining.config,
                fold=pretraining.fold,
                run_dir=run.pretraining / name,
                manifest_file=_manifest_file(cache, pretraining.manifest),
                folds_info_file=folds_info if is_divided else None,
                pixel_store=store if store in stores else None,
                cache_dir=cache,
                n_images=len(pretraining.manifest),
            )
            tasks.setdefault(name, task)
    return list(tasks.values())


def _manifest_file(cache: Path, manifest: Manifest) -> Path:
    return cache / f"manifest-{manifest.fingerprint[:16]}.json"


def _manifest_files(cache: Path, one: PreparedConfig) -> list[Path]:
    """Where the lists of a config's images go, in the order of `image_sets`."""
    files = [_manifest_file(cache, one.manifest)]
    if one.test is not None:  # with the classes of the training images, whatever it has itself
        files.append(files[0].with_stem(f"{files[0].stem}-test-{one.test.fingerprint[:16]}"))
    return files


def image_lists(
    configs: Sequence[PreparedConfig], folders: RunFolders
) -> dict[Path, Callable[[], Any]]:
    """The image lists that tasks name, and what makes their JSON values."""
    cache = folders.cache
    manifests = {
        path: images.to_json
        for one in configs
        for path, images in zip(_manifest_files(cache, one), one.image_sets, strict=True)
    }
    for one in configs:
        if one.unlabelled is not None:
            manifests[_manifest_file(cache, one.unlabelled)] = one.unlabelled.to_json
    return dict(manifests)


def write_tasks(
    configs: Sequence[PreparedConfig],
    folders: RunFolders,
    *,
    stores: Collection[Path],
    terminal: Terminal,
    resume_from: Path | None = None,
    profile: bool = False,
) -> list[Task]:
    """Write a task file per pre-training and per fold.

    Returns the tasks, pre-trainings first. With `profile` the first unfinished fold of each config
    measures itself.
    """
    folds = fold_tasks(configs, folders, resume_from=resume_from, stores=stores)
    if profile:
        folds = _with_profiles(folds, terminal)
    before = pretraining_tasks(configs, folders, stores=stores)
    tasks: list[Task] = [
        replace(task, cache_limit=folders.cache_limit) for task in (*before, *folds)
    ]
    for task in tasks:
        write_task(task)
    return tasks


def _with_profiles(tasks: Sequence[ModelTask], terminal: Terminal) -> list[ModelTask]:
    chosen: dict[str, ModelTask] = {}
    for task in tasks:
        if finished(task) is None:
            chosen.setdefault(task.name, task)
    for name in dict.fromkeys(task.name for task in tasks):
        if name not in chosen:
            terminal.note(
                f"{name}: --profile measures nothing because all folds are finished; use another "
                "--output-dir"
            )
    return [replace(task, profile=task in chosen.values()) for task in tasks]


def _resume_source(source: Path | None, fold: int) -> Path | None:
    """Checkpoint to resume from: one file for all folds, or each fold's own in a result folder."""
    if source is None:
        return None
    if source.is_file():
        return source.resolve()
    checkpoint = ConfigPaths(source.resolve()).fold(fold).checkpoint_latest
    return checkpoint if checkpoint.exists() else None
