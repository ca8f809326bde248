"""Files that are either the old one or the new one, never a half of either."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of `path` for writing; on success it takes the place of `path`.

    With `durable` the bytes are on the disk before the name changes, so that a power cut leaves a
    whole file too. On any error the old file stays and the temporary one is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path, durable=durable) as stream:
        stream.write(content)


def write_text(path: Path, content: str, *, durable: bool = True) -> None:
    """Write `content` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode("utf-8"), durable=durable)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write `value` as indented JSON. NaN and infinity are refused: they are no JSON."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    write_text(path, text + "\n", durable=durable)


def write_with(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill the file, then put it in place (for libraries that want a stream)."""
    with replacing(path) as stream:
        write(stream)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed writers left in `folder` (not below it)."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
