"""Marks of the files of a training, which tell later whether one was damaged."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import Field

from clip_pkg.base.errors import DamagedFile
from clip_pkg.base.paths import FoldPaths
from clip_pkg.base.reading import Count, Number, open_regular, read_required_json

# Bytes and CRC-32 of a file.
Mark: TypeAlias = Annotated[list[Count], Field(min_length=2, max_length=2)]
History: TypeAlias = Mapping[str, list[Number | None]]

MAX_BYTES_READ = 2**23  # of a file whose content is compared with its mark; else only its size is
AGAIN = "run the training command again, which trains this fold again"
_BLOCK = 2**20


def final_files(paths: FoldPaths) -> list[Path]:
    """The files of a finished training that count.

    Nothing resumes from the latest checkpoint then: it counts only where it is the one model.
    """
    models = [one for one in (paths.checkpoint_best, paths.encoder) if one.exists()]
    return [
        paths.history,
        paths.predictions,
        paths.predictions_last,
        paths.epoch_predictions,
        paths.exposure,
        paths.test_predictions,
        *(models or [paths.checkpoint_latest]),
    ]


def marks_of(files: Iterable[Path]) -> dict[str, list[int]]:
    """Name → [bytes, CRC-32] of those files that exist."""
    return {one.name: [one.stat().st_size, _checksum(one)] for one in files if one.exists()}


def check_marks(folder: Path, marks: Mapping[str, list[int]], remedy: str = AGAIN) -> None:
    """Raise DamagedFile for the first file in `folder` that is not the one that was marked.

    A file is read once per process, and again only after it has changed.
    """
    for name, (size, checksum) in marks.items():
        path = folder / Path(name).name
        try:
            found = path.stat()
            if found.st_size != size:
                reason = f"is damaged (it has {found.st_size} bytes instead of {size})"
                raise DamagedFile(path, reason, remedy)
            if size <= MAX_BYTES_READ:
                version = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, size)
                if _checksum_of_version(path, version) != checksum:
                    raise DamagedFile(path, "is damaged (its content has changed)", remedy)
        except FileNotFoundError:
            raise DamagedFile(path, "is missing", remedy) from None
        except OSError as error:
            raise DamagedFile(path, f"cannot be read ({error.strerror})", remedy) from None


def read_history(path: Path, remedy: str = AGAIN) -> History:
    """Read a `history.json`: column → a value per epoch. Raises DamagedFile."""
    history: History = read_required_json(path, dict[str, list[Number | None]], remedy)
    if len({len(values) for values in history.values()}) > 1:
        raise DamagedFile(path, "is damaged (its columns have different lengths)", remedy)
    return history


@lru_cache(maxsize=100_000)
def _checksum_of_version(path: Path, version: tuple[int, ...]) -> int:
    del version
    return _checksum(path)


def _checksum(path: Path) -> int:
    checksum = 0
    with open_regular(path) as stream:
        while block := stream.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum
