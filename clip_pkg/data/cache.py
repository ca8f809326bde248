"""The cache folder of pixel stores and text features: locks, size limit, removal of old files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from filelock import FileLock, Timeout

from clip_pkg.base.errors import UserError
from clip_pkg.base.reading import open_regular

POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
UNITS = ("kB", "MB", "GB", "TB")
WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)b)?", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str) -> int:
    """Read a number of bytes, or of kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024).

    Raises ValueError for anything else.
    """
    found = WRITTEN.fullmatch(text.strip())
    # Twenty digits are more than any disk; hundreds would be an infinite float.
    if found is None or (found[3] and not found[2]) or len(found[1].partition(".")[0]) > 20:
        raise ValueError(f"{text!r} is not a size such as 50GB, 500MiB or 0")
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


MIN_FREE_BYTES = 64 * 2**20  # left free on the disk for logs and checkpoints
# Patterns of data files, each with patterns of files that may accompany it.
KINDS = {"pixels-*.npy": ("pixels-*.json",), "texts-*.safetensors": ()}

Notify: TypeAlias = Callable[[str], None]  # one sentence for the user


class NoRoom(UserError):
    """A file does not fit on the disk or into the cache limit."""


@dataclass(frozen=True)
class CachedEntry:
    """A pixel store or text features in the folder, possibly incomplete.

    path: the data file. files: all existing files. size: bytes of data. used: time of the last use,
    in seconds since 1970.
    """

    path: Path
    files: tuple[Path, ...]
    size: int
    used: float


def cached_entries(folder: Path) -> list[CachedEntry]:
    """Entries of the folder, the least recently used first."""
    found: dict[Path, list[Path]] = {}
    for name, beside in KINDS.items():
        suffix = Path(name).suffix
        for file in (file for pattern in (name, *beside) for file in folder.glob(pattern)):
            found.setdefault(file.with_suffix(suffix), []).append(file)
        for file in folder.glob(f".{name}.*.tmp"):  # being built, or left by a killed builder
            stem, _, _ = file.name.removeprefix(".").partition(f"{suffix}.")
            found.setdefault(folder / f"{stem}{suffix}", []).append(file)
    entries = []
    for path, files in found.items():
        states = {}
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # another process may remove it
                states[file] = file.stat()
        if states:
            used = max(status.st_mtime for status in states.values())
            size = sum(s.st_size for file, s in states.items() if file.suffix != ".json")
            entries.append(CachedEntry(path, tuple(files), size, used))
    return sorted(entries, key=lambda entry: (entry.used, entry.path))


def opened_store(path: Path) -> BinaryIO:
    """Open the `.npy` file of a store, which is not removed while the file is open.

    Raises OSError if it does not exist, and UserError if it is no regular file.
    """
    stream = open_regular(path)
    # Without file locks, no process can lock the file to remove it either.
    with contextlib.suppress(OSError):
        _lock(stream, shared=True)
    with contextlib.suppress(OSError):  # read-only folders keep their times
        os.utime(path.with_suffix(".json"))
    return stream


def _lock(stream: BinaryIO, *, shared: bool) -> None:
    """Lock an open file until it is closed; raises OSError if others have locked it.

    Windows needs no lock: it removes no file that is open.
    """
    if sys.platform != "win32":
        import fcntl  # noqa: PLC0415 - exists on POSIX systems only

        fcntl.flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_there(stream: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def builder_lock(path: Path) -> FileLock:
    """Lock for building or removing the file at `path`."""
    return FileLock(path.with_suffix(".lock"))


def remove_unfinished(path: Path) -> None:
    """Remove temporary files of killed builders of `path`; requires the `builder_lock`."""
    for leftover in path.parent.glob(f".{path.stem}.*.tmp"):
        leftover.unlink()


def sole_changer(folder: Path) -> FileLock:
    """Lock for the folder while its files are counted and space is reserved; hold it briefly."""
    return FileLock(folder / "pixels.lock")


def make_room(
    folder: Path, needed: int, *, limit: int | None, kept: Collection[Path], say: Notify
) -> None:
    """Remove the least recently used entries until `needed` more bytes are within `limit`.

    Entries in `kept` and entries that any process has open stay. With `needed` = 0, removes as much
    as possible; otherwise nothing unless that makes enough room. Requires the lock `sole_changer`.
    Reports what was removed; raises NoRoom.
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
        freed = sum(entry.size for entry in removed)
        if needed and limit is not None and excess > 0:
            others = taken - freed
            beside = f" in addition to {shown_bytes(others)} in use" if others else ""
            raise NoRoom(
                f"they need {shown_bytes(needed)}{beside}, but the cache limit is "
                f"{shown_bytes(limit)}"
            )
        free = shutil.disk_usage(folder).free + freed
        if needed and free < needed + MIN_FREE_BYTES:
            raise NoRoom(
                f"{folder} needs {needed + MIN_FREE_BYTES:,} bytes for them, but only {free:,} are "
                "free"
            )
        for entry in removed:
            # The record first: pixels without a record are not read.
            for file in sorted(entry.files, key=lambda file: file.suffix != ".json"):
                file.unlink(missing_ok=True)
    if removed:
        assert limit is not None, "files are removed only to keep a limit"
        names = ", ".join(f"{entry.path.name} ({shown_bytes(entry.size)})" for entry in removed)
        say(f"removed to keep the cache within {shown_bytes(limit)}: {names}")


def _locked(entry: CachedEntry, locks: ExitStack) -> bool:
    """Lock an entry for removal until `locks` exit; False if a process builds or uses it."""
    with ExitStack() as mine:
        try:
            mine.enter_context(builder_lock(entry.path).acquire(blocking=False))
            if entry.path in entry.files:
                stream = mine.enter_context(entry.path.open("r+b"))
                _lock(stream, shared=False)
        except (Timeout, OSError):  # in use, another user's, or on a file system without locks
            return False
        locks.enter_context(mine.pop_all())
        return True
