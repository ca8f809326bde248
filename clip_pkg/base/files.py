"""Atomic writes: a file or folder is complete or unchanged, never half-written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.paths import ConfigPaths, FoldPaths

MAX_FILE_NAME = 120  # bytes of the longest name that we give a file, temporary ones included


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; on success it replaces `path`.

    durable: flush the file before the rename and its folder after it, so that it survives a power
    failure. On any error the old file is unchanged and the temporary one is removed. A folder in
    the file's place is renamed. Makes the folder of `path`, but none above it: a worker must not
    restore a part of a result folder that was deleted.
    """
    if not path.parent.is_dir():
        path.parent.mkdir(exist_ok=True)
        flush_folder(path.parent.parent)
    temporary = temporary_path(path)
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        try:
            temporary.replace(path)
        except IsADirectoryError:
            remove(path)
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        flush_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that they survive a power failure."""
    for one in reversed([folder, *folder.parents]):
        if not one.is_dir():
            one.mkdir(exist_ok=True)
            flush_folder(one.parent)


def flush_folder(folder: Path) -> None:
    """Write the names in a folder to disk, as far as its file system and this system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """A unique name beside `path`, which `remove_leftovers` knows."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    with replacing(path, durable=durable) as stream:
        stream.write(content)


def write_text(path: Path, content: str, *, durable: bool = True) -> None:
    """Write `content` as UTF-8."""
    write_bytes(path, content.encode("utf-8"), durable=durable)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write `value` as indented JSON. Raises ValueError for NaN and infinity."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    write_text(path, text + "\n", durable=durable)


def write_with(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write with a function that takes a binary stream."""
    with replacing(path) as stream:
        write(stream)


LEFTOVER = ".*.tmp"  # pattern of temporary files, which killed writers leave behind


def remove(path: Path) -> None:
    """Remove a file, if there is one; a folder in its place is renamed, with all that is in it."""
    try:
        path.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError):  # macOS raises the latter for a folder
        if not path.is_dir():
            raise
        path.rename(path.with_name(f"{path.name}.folder-{uuid.uuid4().hex[:8]}"))


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed writers in `folder` (not recursively)."""
    for leftover in folder.glob(LEFTOVER):
        leftover.unlink(missing_ok=True)


def check_output_folder(folder: Path, longest: str) -> None:
    """Raise UserError unless files can be written into `folder`, which may not exist yet.

    longest: relative path of a file in it that is as long as any that will be written. Leaves
    nothing behind.
    """
    place = shown(folder)
    try:
        whole = folder.resolve()
        os.fsencode(whole).decode("utf-8")  # it is written into JSON files
        existing = whole
        while not os.path.lexists(existing):
            existing = existing.parent
        if not existing.is_dir():
            raise UserError(f"{shown(existing)} is not a folder; choose another place")
        limit = 255
        if sys.platform != "win32":
            limit = os.pathconf(existing, "PC_NAME_MAX")
        for name in (whole / longest).relative_to(existing).parts:
            if len(os.fsencode(name)) > limit:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with contextlib.suppress(FileNotFoundError):
            os.lstat(whole / longest)
        # Neither the mode of a folder nor os.access tells about /proc, quotas and file servers.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"{place}: no files can be written there ({error.strerror}); choose another place"
        ) from None
    except ValueError:
        raise UserError(
            f"{place}: its path has a NUL byte or is not UTF-8; choose another place"
        ) from None
    except RuntimeError:
        raise UserError(f"{place}: a symbolic link leads back to itself; repair it") from None


def check_new_folder(path: Path) -> None:
    """Raise UserError unless `path` is an empty folder, or a new one that can be made."""
    check_output_folder(path.parent, f"{temporary_path(path).name}/{'n' * MAX_FILE_NAME}")
    try:
        if path.is_dir() and not any(path.iterdir()):
            return
        if path.exists() or path.is_symlink():
            what = "is not empty" if path.is_dir() else "is not a folder"
            raise UserError(f"{shown(path)} {what}; choose a new or empty folder")
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill, renamed to `path` on success and deleted on any error.

    Raises UserError if it cannot be written.
    """
    temporary = temporary_path(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output_file(path: Path, sources: Sequence[Path], suffixes: Sequence[str]) -> None:
    """Raise UserError if a command must not write its output to `path`.

    Any other existing file will be replaced. sources: files that the output is made from.
    suffixes: allowed endings of the name.
    """
    place = shown(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        status = None
    except OSError as error:
        raise UserError(f"{place}: cannot be written: {error.strerror}") from None
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise UserError(
            f"{place} is a folder; name a file in it, such as {path / 'results'}{suffixes[0]}"
        )
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{place}: its name must end in {' or '.join(suffixes)}")
    check_output_folder(path.parent, temporary_path(path).name)
    if status is None:
        return
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{place} is not a regular file; choose another name")
    if any(source.is_file() and path.samefile(source) for source in sources):
        raise UserError(f"{place} would overwrite one of its own inputs; choose another name")
    if FoldPaths(path.parent).task.exists() or ConfigPaths(path.parent).identity.exists():
        raise UserError(f"{place} belongs to a training run; choose another place")
