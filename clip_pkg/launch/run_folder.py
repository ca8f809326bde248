"""The output folder of a run: whose it is, what is replaced, and the files that all folds need."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.files import write_json
from clip_pkg.base.paths import ConfigPaths, RunPaths
from clip_pkg.config.load import dump_canonical
from clip_pkg.launch.pixels import pixel_store, pretraining_store
from clip_pkg.launch.preparation import Preparation, PreparedConfig, audit_json, identity_json
from clip_pkg.launch.request import RunFolders
from clip_pkg.launch.terminal import Terminal
from clip_pkg.study.folds_info import splits_to_json
from clip_pkg.study.identity import Identity, identity_from_json
from clip_pkg.study.manifest import Manifest
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


def refuse_folder_in_use(run: RunPaths) -> None:
    """Raise RunFolderError at once if another launcher works there; writes nothing."""
    if run.lock.exists():
        with _acquired(run):
            pass


@contextmanager
def sole_launcher(run: RunPaths) -> Iterator[None]:
    """Hold the output folder; the operating system lets go of the lock when the process ends."""
    run.output_dir.mkdir(parents=True, exist_ok=True)
    with _acquired(run):
        run.holder.write_text(f"process {os.getpid()} on {os.uname().nodename}", encoding="utf-8")
        try:
            yield
        finally:
            run.holder.unlink(missing_ok=True)


def _acquired(run: RunPaths) -> AbstractContextManager[object]:
    lock = FileLock(run.lock)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        known = run.holder.exists()
        who = run.holder.read_text(encoding="utf-8") if known else "an unknown process"
        raise RunFolderError(
            f"{run.output_dir} is in use by {who}; wait for it or use another --output-dir"
        ) from None


def folders_to_replace(
    run: RunPaths, configs: Sequence[PreparedConfig], *, overwrite: bool
) -> list[ConfigPaths]:
    """Folders to be set aside; raises RunFolderError for foreign ones unless `overwrite`."""
    replaced, problems = [], []
    for prepared in configs:
        paths = run.config(prepared.config.name)
        if not paths.root.exists() or not any(paths.root.iterdir()):
            continue
        reason = _mismatch(paths, prepared.identity)
        if overwrite:
            replaced.append(paths)
        elif reason:
            problems.append(f"{paths.root}: {reason}")
    if problems:
        raise RunFolderError(
            "\n  ".join(["these folders hold other results, nothing was started:", *problems])
            + "\nUse --overwrite to start anew (what is there moves to "
            f"{run.replaced}), another --output-dir, or another `name`."
        )
    return replaced


def _mismatch(paths: ConfigPaths, identity: Identity) -> str:
    try:
        found = identity_from_json(json.loads(paths.identity.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return "it is not empty and holds no run of this program"
    except (ValueError, TypeError):
        return f"{paths.identity.name} is damaged"
    differences = identity.differences(found)
    return f"made with different {', '.join(differences)}" if differences else ""


def set_aside(run: RunPaths, old: Path, terminal: Terminal) -> None:
    """Move an old result folder of the run to where `--overwrite` keeps what it replaces."""
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
    target = run.replaced / f"{'-'.join(old.relative_to(run.output_dir).parts)}-{stamp}"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(old, target)
    terminal.note(f"{old} was moved to {target}")


def write_config_files(run: RunPaths, preparation: Preparation) -> None:
    """Write what all folds of each config share."""
    for prepared in preparation.configs:
        paths = run.config(prepared.config.name)
        # First of all: from here on the folder is known as this run's.
        write_json(paths.identity, identity_json(prepared))
        write_json(paths.config, dump_canonical(prepared.config))
        write_json(paths.folds_info, splits_to_json(prepared.splits, prepared.manifest))
        write_json(paths.class_texts, prepared.texts.to_json())
        write_json(paths.preflight, audit_json(preparation))


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


def write_tasks(
    configs: Sequence[PreparedConfig],
    folders: RunFolders,
    *,
    stores: Collection[Path],
    terminal: Terminal,
    resume_from: Path | None = None,
    profile: bool = False,
) -> list[Task]:
    """Write a task file per pre-training and per fold, and the image lists that they name.

    Returns the tasks, pre-trainings first. With `profile` the first unfinished fold of each config
    measures itself.
    """
    cache = folders.cache
    manifests = {
        path: images
        for one in configs
        for path, images in zip(_manifest_files(cache, one), one.image_sets, strict=True)
    }
    for one in configs:
        if one.unlabelled is not None:
            manifests[_manifest_file(cache, one.unlabelled)] = one.unlabelled
    for path, manifest in manifests.items():
        write_json(path, manifest.to_json())
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
                f"{name}: --profile measures nothing because all folds are finished; --overwrite "
                "trains them again"
            )
    return [replace(task, profile=task in chosen.values()) for task in tasks]


def _resume_source(source: Path | None, fold: int) -> Path | None:
    """Checkpoint to go on from: one file for all folds, or each fold's own in a result folder."""
    if source is None:
        return None
    if not source.exists():
        raise RunFolderError(f"--resume-from: {source} does not exist")
    if source.is_file():
        return source.resolve()
    checkpoint = ConfigPaths(source.resolve()).fold(fold).checkpoint_latest
    return checkpoint if checkpoint.exists() else None
