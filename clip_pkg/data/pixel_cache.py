"""The folder of the pixel stores: what they take, who uses them, which of them make room.

A store that a process has open is locked (shared) by it until it ends, so nobody removes it. It is
`flock` on the `.npy` file itself: the system lets go of it however the process ends, and file
servers pass it on between machines. The `.json` file beside it is touched when a store is opened;
its time says which one was used least recently.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from clip_pkg.data.byte_sizes import shown_bytes
from clip_pkg.errors import UserError

SPACE_TO_LEAVE = 64 * 2**20  # bytes that a store leaves free on the disk, for logs and checkpoints


class NoRoom(UserError):
    """A pixel store does not fit onto the disk, or into what the user allows."""


@dataclass(frozen=True)
class CachedStore:
    """A store in the folder, or what is there of one.

    path: its `.npy` file. files: all there are. size: bytes of the pixels. used: when it was opened
    last, in seconds since 1970.
    """

    path: Path
    files: tuple[Path, ...]
    size: int
    used: float


def cached_stores(folder: Path) -> list[CachedStore]:
    """List the stores of a folder, the least recently used one first."""
    parts: dict[Path, list[Path]] = {}
    for file in [*folder.glob("pixels-*.npy"), *folder.glob("pixels-*.json")]:
        parts.setdefault(file.with_suffix(".npy"), []).append(file)
    for file in folder.glob(".pixels-*.npy.*.tmp"):  # is being built, or its builder was killed
        name, _, _ = file.name.removeprefix(".").partition(".npy.")
        parts.setdefault(folder / f"{name}.npy", []).append(file)
    stores = []
    for path, files in parts.items():
        states = {file: status for file in files if (status := _status(file)) is not None}
        if states:
            used = max(status.st_mtime for status in states.values())
            size = sum(s.st_size for file, s in states.items() if file.suffix != ".json")
            stores.append(CachedStore(path, tuple(files), size, used))
    return sorted(stores, key=lambda store: (store.used, store.path))


def _status(file: Path) -> os.stat_result | None:
    """State of a file that another process may remove at any time."""
    try:
        return file.stat()
    except FileNotFoundError:
        return None


def opened_store(path: Path) -> BinaryIO:
    """Open a store's `.npy` file; nobody removes it as long as the file is open.

    Raises OSError if it is not there.
    """
    stream = path.open("rb")
    # Where files cannot be locked, nobody can lock this one to remove it either.
    with contextlib.suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_SH)
    with contextlib.suppress(OSError):  # a folder that may only be read keeps its times
        os.utime(path.with_suffix(".json"))
    return stream


def is_there(stream: BinaryIO, path: Path) -> bool:
    """Whether an open file still is the one at `path`."""
    status = _status(path)
    return status is not None and os.path.samestat(os.fstat(stream.fileno()), status)


def builder_lock(path: Path) -> FileLock:
    """Lock of whoever builds, or removes, the store at `path`."""
    return FileLock(path.with_suffix(".lock"))


@contextmanager
def sole_changer(folder: Path) -> Iterator[None]:
    """Hold the folder while its stores are counted and room is taken; never for long."""
    with FileLock(folder / "pixels.lock"):
        yield


def make_room(
    folder: Path, needed: int, *, limit: int | None, kept: Collection[Path]
) -> tuple[CachedStore, ...]:
    """Remove the least recently used stores until `needed` bytes more are within `limit`.

    Those of `kept` stay, and those that any process has open. With `needed` = 0 as much goes as
    can; otherwise nothing does unless it helps. The caller is the `sole_changer`. Returns what was
    removed; raises NoRoom.
    """
    stores = cached_stores(folder)
    taken = sum(store.size for store in stores)
    excess = 0 if limit is None else taken + needed - limit
    with ExitStack() as locks:
        removed = []
        for store in stores:
            if excess <= 0:
                break
            if store.path not in kept and _locked(store, locks):
                removed.append(store)
                excess -= store.size
        if needed:
            freed = sum(store.size for store in removed)
            _check(folder, needed, limit, excess=excess, others=taken - freed, freed=freed)
        for store in removed:
            # The record first: pixels without one are not read.
            for file in sorted(store.files, key=lambda file: file.suffix != ".json"):
                file.unlink(missing_ok=True)
    return tuple(removed)


def _check(
    folder: Path, needed: int, limit: int | None, *, excess: int, others: int, freed: int
) -> None:
    if limit is not None and excess > 0:
        beside = f" beside {shown_bytes(others)} that are in use" if others else ""
        raise NoRoom(
            f"they need {shown_bytes(needed)}{beside}, the cache limit is {shown_bytes(limit)}"
        )
    free = shutil.disk_usage(folder).free + freed
    if free < needed + SPACE_TO_LEAVE:
        raise NoRoom(
            f"{folder} needs {needed + SPACE_TO_LEAVE:,} bytes for them, {free:,} are free"
        )


def _locked(store: CachedStore, locks: ExitStack) -> bool:
    """Lock a store for removal, until `locks` are left; False if somebody builds or uses it."""
    with ExitStack() as mine:
        try:
            mine.enter_context(_at_once(builder_lock(store.path)))
            if store.path in store.files:
                stream = mine.enter_context(store.path.open("r+b"))
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (Timeout, OSError):  # in use; or another user's, or not to be locked at all
            return False
        locks.enter_context(mine.pop_all())
        return True


def _at_once(lock: FileLock) -> AbstractContextManager[object]:
    return lock.acquire(blocking=False)
