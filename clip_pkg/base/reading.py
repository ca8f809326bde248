"""Reading files that can be damaged, hostile, or no files at all: an answer or a sentence, soon."""

from __future__ import annotations

import os
import stat
import time
import zipfile
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import pydantic_core
from pydantic import Field, TypeAdapter, ValidationError

from clip_pkg.base.errors import DamagedFile, UserError, shown

Content = TypeVar("Content")
Count: TypeAlias = Annotated[int, Field(ge=0, le=2**53)]  # that every arithmetic can stand
Ordinal: TypeAlias = Annotated[int, Field(ge=1, le=2**53)]
Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


MAX_JSON_BYTES = 1 << 32  # of this program's own files; lists of a million images are below it
MAX_PROC_BYTES = 1 << 20
SECONDS_FOR_A_WRITER = 1.0  # to open the pipe that a command line names
SECONDS_OF_SILENCE = 30.0  # of a program that writes into a pipe


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; never waits, as opening a FIFO or a device would.

    Raises OSError, and UserError for what is neither a regular file nor a link to one.
    """
    # Without O_NONBLOCK, opening a FIFO waits for a writer, and /proc/kmsg waits when it is read.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise UserError(f"{shown(path)} {_kind(mode)}; name a file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _kind(mode: int) -> str:
    return "is a folder" if stat.S_ISDIR(mode) else "is not a regular file"


def read_bounded(path: Path, limit: int, *, pipe: bool = False) -> bytes:
    """The content of a file, or, with `pipe`, of what another program writes into a pipe.

    limit: bytes; more is refused before it fills the memory.
    Raises OSError, and UserError for what is no file, is larger, or gets no content in time.
    """
    if pipe and path.is_fifo():
        return _read_pipe(path, limit)
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise UserError(_too_long(path, limit))
        # A file of /proc has content in spite of its size 0; where reading it would wait, None.
        content = stream.read() if size else stream.read(MAX_PROC_BYTES)
    return content or b""


def _read_pipe(path: Path, limit: int) -> bytes:
    """Read from a pipe, such as `<(command)` of a shell, until its writer closes it."""
    content, has_writer = bytearray(), False
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        end = time.monotonic() + SECONDS_FOR_A_WRITER
        while True:
            if len(content) > limit:
                raise UserError(_too_long(path, limit))
            try:
                piece = os.read(descriptor, 1 << 20)
            except BlockingIOError:  # a program has opened it and is still at work
                piece = b""
                if not has_writer:
                    has_writer, end = True, time.monotonic() + SECONDS_OF_SILENCE
            else:
                if not piece and has_writer:
                    return bytes(content)
                if piece:
                    content += piece
                    has_writer, end = True, time.monotonic() + SECONDS_OF_SILENCE
                    continue
            if time.monotonic() > end:
                raise UserError(f"{shown(path)} is a pipe into which no program writes")
            time.sleep(0.01)
    finally:
        os.close(descriptor)


def _too_long(path: Path, limit: int) -> str:
    return f"{shown(path)} has more than {limit >> 20} MiB; name another file"


def read_json(path: Path, kind: type[Content], remedy: str = "copy it again") -> Content:
    """Read a JSON file of this program whose content is a `kind` (checked by pydantic).

    Raises FileNotFoundError if there is none, and DamagedFile, with `remedy` as the advice, for
    whatever else keeps it from being read: cut off, nested too deep, NaN, another shape, no file.
    """
    return parse_json(read_bytes(path, remedy), kind, path, remedy)


def read_required_json(path: Path, kind: type[Content], remedy: str = "copy it again") -> Content:
    """As `read_json`, for a file that must exist: a missing one is a DamagedFile as well."""
    try:
        return read_json(path, kind, remedy)
    except FileNotFoundError:
        raise DamagedFile(path, "is missing", remedy) from None


def read_bytes(path: Path, remedy: str = "copy it again") -> bytes:
    """Read a whole file of at most `MAX_JSON_BYTES`. Raises FileNotFoundError, else DamagedFile."""
    try:
        return read_bounded(path, MAX_JSON_BYTES)
    except FileNotFoundError:
        raise
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DamagedFile(path, f"cannot be read ({reason})", remedy) from None


def parse_json(
    content: bytes, kind: type[Content], path: Path, remedy: str = "copy it again"
) -> Content:
    """Parse the content of `path`, as `read_json` does."""
    try:
        pydantic_core.from_json(content, allow_inf_nan=False)
        read: Content = _adapter(kind).validate_json(content)  # type: ignore[arg-type]
        return read
    except ValidationError as error:
        raise DamagedFile(path, f"is damaged ({first_problem(error)})", remedy) from None
    except ValueError as error:
        raise DamagedFile(path, f"is damaged ({error})", remedy) from None


def first_problem(error: ValidationError) -> str:
    """The first wrong place and what is wrong there: `folds.0.fold: Input should be …`."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def check_archive(path: Path) -> None:
    """Compare all that is in a zip file, such as a checkpoint, with its CRC-32; torch does not.

    Raises OSError, UserError, zipfile.BadZipFile, and ValueError.
    """
    with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("its entries are compressed")  # no limit to what they expand to
        if (entry := archive.testzip()) is not None:
            raise ValueError(f"{entry} has another checksum")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
