"""The output folder of a run: its lock, replaced results, and the files that all folds share."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clip_pkg.base.errors import DamagedFile, RunFolderError, UserError, shown
from clip_pkg.base.files import (
    LEFTOVER,
    flush_folder,
    make_folder,
    remove_leftovers,
    write_json,
    write_text,
)
from clip_pkg.base.paths import ConfigPaths, FoldPaths, RunPaths
from clip_pkg.base.reading import read_bounded, read_json
from clip_pkg.config.load import dump_canonical
from clip_pkg.study.differences import differences
from clip_pkg.study.folds_info import splits_to_json
from clip_pkg.study.identity import Identity, StoredIdentity
from clip_pkg.study.preflight import Preparation, PreparedConfig
from clip_pkg.study.tasks import FoldResult, read_record, read_task

MAX_HOLDER_BYTES = 1000


def refuse_folder_in_use(run: RunPaths) -> None:
    """Raise RunFolderError at once if another launcher works there; writes nothing."""
    _refuse_links(run)
    if run.lock.exists():
        with _acquired(run):
            pass


@contextmanager
def sole_launcher(run: RunPaths) -> Iterator[None]:
    """Lock the output folder; the operating system releases the lock when the process ends."""
    make_folder(run.output_dir)
    _refuse_links(run)
    with _acquired(run):
        # The holder is only named to others: a full disk must not stop the run.
        with suppress(OSError):
            write_text(run.holder, f"process {os.getpid()} on {platform.node()}", durable=False)
        try:
            yield
        finally:
            with suppress(OSError):
                run.holder.unlink(missing_ok=True)


def _refuse_links(run: RunPaths) -> None:
    """Refuse links in place of the files that are written where they lie, in a shared folder say.

    A config's folder may be a link: its files are replaced, never written through a link.
    """
    for path in (run.lock, run.holder, run.ledger):
        if path.is_symlink():
            raise RunFolderError(
                f"{shown(path)} is a symbolic link, and this program writes through none; remove it"
            )


def _acquired(run: RunPaths) -> AbstractContextManager[object]:
    lock = FileLock(run.lock)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        holder = read_holder(run) or "an unknown process"
        raise RunFolderError(
            f"{run.output_dir} is in use by {holder}; wait for it or use another --output-dir"
        ) from None


def read_holder(run: RunPaths) -> str:
    """Who holds the lock, `process 12 on host`; empty if that is not known."""
    try:
        return read_bounded(run.holder, MAX_HOLDER_BYTES).decode("utf-8", "replace")
    except (OSError, UserError):
        return ""


def folders_to_replace(
    run: RunPaths, configs: Sequence[PreparedConfig], *, overwrite: bool
) -> list[ConfigPaths]:
    """Folders with other results, to be set aside; raises RunFolderError unless `overwrite`.

    A folder of other settings in which nothing was trained yet is taken over as it is.
    """
    replaced, problems = [], []
    for prepared in configs:
        paths = run.config(prepared.config.name)
        if not paths.root.exists() or all(one.match(LEFTOVER) for one in paths.root.iterdir()):
            continue
        try:
            found = _identities(paths)
            reasons = [] if found else ["it is not empty and holds no run of this program"]
        except DamagedFile as error:
            found, reasons = [], [f"{paths.identity.name} {error.reason}"]
        for one in found:
            reasons += differences(prepared, paths, one)
        if reasons and not (found and _is_untrained(paths)):
            replaced.append(paths)
            problems += [f"{shown(paths.root)}", *(f"  {one}" for one in dict.fromkeys(reasons))]
    if problems and not overwrite:
        raise RunFolderError(
            "\n  ".join(["these folders hold other results, nothing was started:", *problems])
            + "\nUse another --output-dir or another `name`, or --overwrite, which moves these "
            f"folders to {shown(run.replaced)} and keeps all others."
        )
    return replaced


def _is_untrained(paths: ConfigPaths) -> bool:
    """Whether no fold has a result or a checkpoint."""
    kept = ("result.json", "checkpoint_*")
    return not any(next(paths.root.glob(f"*/{name}"), None) for name in kept)


def _identities(paths: ConfigPaths) -> list[Identity]:
    """The identity of a config's folder, or those of its folds where that file is lost.

    Raises DamagedFile if no fold has one that can be read.
    """
    damage: DamagedFile | None = None
    try:
        return [read_json(paths.identity, StoredIdentity)]
    except FileNotFoundError:
        pass
    except DamagedFile as error:
        damage = error
    found: list[Identity] = []
    for fold in map(FoldPaths, sorted(paths.root.glob("fold_*"))):
        for read in (partial(read_record, FoldResult, fold.result), partial(read_task, fold.task)):
            with suppress(DamagedFile):
                record = read()
                found += [] if record is None else [record.identity]
    if damage is not None and not found:
        raise damage
    return found


def set_aside(run: RunPaths, old: Path) -> str:
    """Move an old result folder to where `--overwrite` keeps it; says so, and how to undo it."""
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
    target = run.replaced / f"{'-'.join(old.relative_to(run.output_dir).parts)}-{stamp}"
    make_folder(target.parent)
    shutil.move(old, target)
    flush_folder(target.parent)
    flush_folder(old.parent)
    new, here, there = (
        shlex.quote(str(path)) for path in (target.with_name(f"{target.name}-new"), old, target)
    )
    return (
        f"replaced {shown(old)}; to undo it when the run has ended:\n"
        f"  mv {here} {new} && mv {there} {here}"
    )


def tidy(run: RunPaths, configs: Sequence[PreparedConfig]) -> None:
    """Remove what killed writers left in the folders of these configs."""
    roots = [run.config(one.config.name).root for one in configs]
    for folder in (run.output_dir, *roots, *(fold for one in roots for fold in one.glob("*/"))):
        remove_leftovers(folder)


class SharedFiles:
    """Files that tasks share, which are written again whenever they were lost or changed.

    contents: makes the JSON value of each file. Only what makes them is kept: the folds of hundreds
    of configs would fill the launcher's memory.
    """

    def __init__(self, contents: Mapping[Path, Callable[[], Any]]) -> None:
        self._contents = dict(contents)
        self._written: dict[Path, tuple[int, ...]] = {}

    def restore(self, *folders: Path) -> None:
        """Write those files in `folders`, by default in any, that are not as they were written."""
        for path, content in self._contents.items():
            if folders and path.parent not in folders:
                continue
            if path not in self._written or _state(path) != self._written[path]:
                make_folder(path.parent)
                write_json(path, content())
                self._written[path] = _state(path)


def _state(path: Path) -> tuple[int, ...]:
    """What changes with the content of a file; empty if there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def config_files(run: RunPaths, preparation: Preparation) -> dict[Path, Callable[[], Any]]:
    """The files that all folds of a config share, and what makes their JSON values."""
    files: dict[Path, Callable[[], Any]] = {}
    for prepared in preparation.configs:
        paths = run.config(prepared.config.name)
        # First: it marks the folder as this run's.
        files[paths.identity] = partial(asdict, prepared.identity)
        files[paths.config] = partial(dump_canonical, prepared.config)
        files[paths.folds_info] = partial(splits_to_json, prepared.splits, prepared.manifest)
        files[paths.class_texts] = prepared.texts.to_json
        files[paths.preflight] = partial(_findings, preparation)
    return files


def _findings(preparation: Preparation) -> dict[str, Any]:
    return {"notices": list(preparation.notices), **preparation.audit.to_json()}
