"""Reading files that can be damaged, hostile, or no files at all: an answer or a sentence, soon."""

from __future__ import annotations

import os
import stat
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from clip_pkg.base.errors import DamagedFile, UserError, shown

Content = TypeVar("Content")


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; never waits, as opening a FIFO or a device would.

    Raises OSError, and UserError for what is neither a regular file nor a link to one.
    """
    # Without O_NONBLOCK, opening a FIFO waits for a writer, and /proc/kmsg waits when it is read.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{shown(path)} is not a regular file; name a file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_json(path: Path, kind: type[Content], remedy: str = "copy it again") -> Content:
    """Read a JSON file of this program whose content is a `kind` (checked by pydantic).

    Raises FileNotFoundError if there is none, and DamagedFile, with `remedy` as the advice, for
    whatever else keeps it from being read: cut off, nested too deep, NaN, another shape, no file.
    """
    try:
        with open_regular(path) as stream:
            content = stream.read()
    except FileNotFoundError:
        raise
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DamagedFile(path, f"cannot be read ({reason})", remedy) from None
    return parse_json(content, kind, path, remedy)


def parse_json(
    content: bytes, kind: type[Content], path: Path, remedy: str = "copy it again"
) -> Content:
    """Parse the content of `path`, as `read_json` does."""
    try:
        pydantic_core.from_json(content, allow_inf_nan=False)
        read: Content = _adapter(kind).validate_json(content)  # type: ignore[arg-type]
        return read
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise DamagedFile(path, f"is damaged ({reason})", remedy) from None
    except ValueError as error:
        raise DamagedFile(path, f"is damaged ({error})", remedy) from None


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
