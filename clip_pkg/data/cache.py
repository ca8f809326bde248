"""Numbers of bytes, as people write them: 50GB, 500MiB."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from filelock import FileLock, Timeout

from clip_pkg.base.errors import UserError

POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
UNITS = ("kB", "MB", "GB", "TB")
WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b)?", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str) -> int:
    """Read a number of bytes, or of kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024).

    Raises ValueError for anything else.
    """
    found = WRITTEN.fullmatch(text.strip())
    if found is None or (found[3] and not found[2]):
        raise ValueError(f"{text!r} is no size such as 50GB, 500MiB or 0")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** POWERS[(found[2] or "").lower()])


def shown_bytes(count: int) -> str:
    """`812 bytes`, `5.3 MB`, `1.2 TB`."""
    if count < 1000:
        return f"{count} bytes"
    power = 1
    while power < len(UNITS) and count >= 999.95 * 1000**power:
        power += 1
    return f"{count / 1000**power:.1f} {UNITS[power - 1]}"


SPACE_TO_LEAVE = 64 * 2**20  # bytes that a store leaves free on the disk, for logs and checkpoints
# Names of what holds numbers, and of what may be beside it.
KINDS = {"pixels-*.npy": ("pixels-*.json",), "texts-*.safetensors": ()}

Notify: TypeAlias = Callable[[str], None]  # one sentence for the user


class NoRoom(UserError):
    """A file of the cache does not fit onto the disk, or into what the user allows."""


@dataclass(frozen=True)
class CachedEntry:
    """A pixel store or text features in the folder, or what is there of them.

    path: the file that holds the numbers. files: all there are. size: bytes of the numbers. used:
    when it was opened last, in seconds since 1970.
    """

    path: Path
    files: tuple[Path, ...]
    size: int
    used: float


def cached_entries(folder: Path) -> list[CachedEntry]:
    """List what the folder holds, the least recently used first."""
    parts: dict[Path, list[Path]] = {}
    for name, beside in KINDS.items():
        suffix = Path(name).suffix
        for file in (file for pattern in (name, *beside) for file in folder.glob(pattern)):
            parts.setdefault(file.with_suffix(suffix), []).append(file)
        for file in folder.glob(f".{name}.*.tmp"):  # is being built, or its builder was killed
            stem, _, _ = file.name.removeprefix(".").partition(f"{suffix}.")
            parts.setdefault(folder / f"{stem}{suffix}", []).append(file)
    entries = []
    for path, files in parts.items():
        states = {file: status for file in files if (status := _status(file)) is not None}
        if states:
            used = max(status.st_mtime for status in states.values())
            size = sum(s.st_size for file, s in states.items() if file.suffix != ".json")
            entries.append(CachedEntry(path, tuple(files), size, used))
    return sorted(entries, key=lambda entry: (entry.used, entry.path))


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
    """Lock of whoever builds, or removes, what is at `path`."""
    return FileLock(path.with_suffix(".lock"))


def remove_unfinished(path: Path) -> None:
    """Remove what killed builders of `path` left; the caller holds the `builder_lock`."""
    for leftover in path.parent.glob(f".{path.stem}.*.tmp"):
        leftover.unlink()


@contextmanager
def sole_changer(folder: Path) -> Iterator[None]:
    """Hold the folder while its files are counted and room is taken; never for long."""
    with FileLock(folder / "pixels.lock"):
        yield


def room_for(
    path: Path, needed: int, *, limit: int | None, kept: Collection[Path], say: Notify
) -> None:
    """Make room for what is to be at `path`, and tell what went for it.

    As `make_room`, which says who calls it and what it raises.
    """
    removed = make_room(path.parent, needed, limit=limit, kept={path, *kept})
    if removed:
        assert limit is not None, "only a limit makes files go"
        names = ", ".join(f"{entry.path.name} ({shown_bytes(entry.size)})" for entry in removed)
        say(f"removed, to keep the cache within {shown_bytes(limit)}: {names}")


def make_room(
    folder: Path, needed: int, *, limit: int | None, kept: Collection[Path]
) -> tuple[CachedEntry, ...]:
    """Remove what was not used for the longest time until `needed` bytes more are within `limit`.

    What is in `kept` stays, and stores that any process has open. With `needed` = 0 as much goes as
    can; otherwise nothing does unless it helps. The caller is the `sole_changer`. Returns what was
    removed; raises NoRoom.
    """
    entries = cached_entries(folder)
    taken = sum(entry.size for entry in entries)
    excess = 0 if limit is None else taken + needed - limit
    with ExitStack() as locks:
        removed = []
        for entry in entries:
            if excess <= 0:
                break
            if entry.path not in kept and _locked(entry, locks):
                removed.append(entry)
                excess -= entry.size
        if needed:
            freed = sum(entry.size for entry in removed)
            _check(folder, needed, limit, excess=excess, others=taken - freed, freed=freed)
        for entry in removed:
            # The record first: pixels without one are not read.
            for file in sorted(entry.files, key=lambda file: file.suffix != ".json"):
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


def _locked(entry: CachedEntry, locks: ExitStack) -> bool:
    """Lock an entry for removal, until `locks` are left; False if somebody builds or uses it."""
    with ExitStack() as mine:
        try:
            mine.enter_context(_at_once(builder_lock(entry.path)))
            if entry.path in entry.files:
                stream = mine.enter_context(entry.path.open("r+b"))
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (Timeout, OSError):  # in use; or another user's, or not to be locked at all
            return False
        locks.enter_context(mine.pop_all())
        return True


def _at_once(lock: FileLock) -> AbstractContextManager[object]:
    return lock.acquire(blocking=False)
