"""Images to predict: files, folders, and CSV tables with a `path` column; decoded ahead in batches.

No torch here, so that a wrong path is reported before a model is loaded.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError, DataErrors, shown
from clip_pkg.data.pixel_blocks import squash
from clip_pkg.study.decoding import SUFFIXES, UnreadableImage, decode_image
from clip_pkg.study.image_folder import (
    KINDS,
    OTHER_IMAGES,
    SYSTEM_FOLDERS,
    UNFIT_NAME,
    can_be_written,
    is_folder,
)
from clip_pkg.study.image_table import open_table
from clip_pkg.study.inspection import OnProgress

COLUMN = "path"
NaturalKey: TypeAlias = tuple[tuple[tuple[bool, int, str], ...], ...]


@dataclass(frozen=True)
class ImageFile:
    """name: as given by the user. file: where it is."""

    name: str
    file: Path


@dataclass(frozen=True)
class FoundImages:
    """images: in the order given, folders in natural order. notices: for the user."""

    images: tuple[ImageFile, ...]
    notices: tuple[str, ...]


@dataclass
class _Found:
    """Results of searching all paths."""

    images: list[ImageFile] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # suffix → images of kinds not read
    problems: list[str] = field(default_factory=list)


def find_images(paths: Sequence[Path]) -> FoundImages:
    """List the images of `paths`.

    A folder means all images in it, recursively; a `.csv` file those in its column `path`, absolute
    or relative to the file's folder; any other file itself. Duplicates are listed once.

    Raises:
        DataErrors: Every path that does not exist, cannot be read or contains no image.
    """
    found = _Found()
    for path in paths:
        before = len(found.images), len(found.problems)
        try:
            _search(found, path)
        except OSError as error:
            place = shown(error.filename or path)
            found.problems.append(f"{place}: cannot be read: {error.strerror}")
        if before == (len(found.images), len(found.problems)):
            found.problems.append(f"{shown(path)}: contains no image ({KINDS})")
    unique: dict[str, ImageFile] = {}
    for image in found.images:
        unique.setdefault(os.path.abspath(image.file), image)  # noqa: PTH100  resolve() asks the disk
    found.problems += _ambiguous_names(unique.values())
    if found.problems:
        raise DataErrors("--images", found.problems)
    notices = [
        f"ignoring {count} {suffix} file(s): unsupported format; convert them to {KINDS}"
        for suffix, count in sorted(found.others.items())
    ]
    if repeated := len(found.images) - len(unique):
        notices.append(f"{repeated} image(s) were listed more than once and are predicted once")
    return FoundImages(tuple(unique.values()), tuple(notices))


def _ambiguous_names(images: Iterable[ImageFile]) -> Iterator[str]:
    """Problems with names that do not identify one image."""
    first: dict[str, ImageFile] = {}
    for image in images:
        if first.setdefault(image.name, image) is not image:
            yield (
                f"{shown(image.name)} means both {shown(first[image.name].file)} and "
                f"{shown(image.file)}; predict them in separate runs"
            )
        if not can_be_written(image.name):
            yield f"{shown(image.name)}: {UNFIT_NAME}"


def _search(found: _Found, path: Path) -> None:
    if path.is_dir():
        files = sorted(_files_below(path), key=_natural)
        suffixes = [file.suffix.lower() for file in files]
        found.others.update(suffix for suffix in suffixes if suffix in OTHER_IMAGES)
        found.images += [
            ImageFile(str(path / file), path / file)
            for file, suffix in zip(files, suffixes, strict=True)
            if suffix in SUFFIXES
        ]
    elif not path.exists():
        found.problems.append(f"{shown(path)}: no such file or folder")
    elif path.suffix.lower() == ".csv":
        found.images += _listed(path, found.problems)
    else:
        found.images.append(ImageFile(str(path), path))


def _files_below(root: Path) -> Iterator[PurePath]:
    """Relative paths of all visible files; each real folder is visited once."""
    seen: set[tuple[int, int]] = set()
    # Real folders first, so that links to them do not change the names of files.
    folders, links = deque([PurePath()]), deque[PurePath]()
    while folders or links:
        relative = folders.popleft() if folders else links.popleft()
        status = (root / relative).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(root / relative) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
                    continue
                path = relative / entry.name
                if is_folder(entry):
                    (links if entry.is_symlink() else folders).append(path)
                else:
                    yield path


def _listed(table: Path, problems: list[str]) -> list[ImageFile]:
    """Images in the column `path` of a CSV file."""
    try:
        reader = open_table(table)
    except DataError as error:
        problems.append(str(error))
        return []
    images: list[ImageFile] = []
    column: int | None = None
    try:
        for record in reader:
            if not any(value.strip() for value in record):
                continue
            place = f"{shown(table)}:{reader.line_num}"
            if column is None:
                header = [value.strip().casefold() for value in record]
                if header.count(COLUMN) != 1:
                    problems.append(f"{place}: the first line must name one column `{COLUMN}`")
                    break
                column = header.index(COLUMN)
            elif column >= len(record) or not record[column].strip():
                problems.append(f"{place}: the path is empty")
            else:
                name = record[column].strip()
                images.append(ImageFile(name, table.parent / name))
    except csv.Error as error:
        problems.append(f"{shown(table)}:{reader.line_num}: is not valid CSV: {error}")
    return images


def _natural(path: PurePath) -> NaturalKey:
    """Sort key with `img2` before `img10` and the files of a folder together."""
    return tuple(_natural_name(part) for part in path.parts)


def _natural_name(name: str) -> tuple[tuple[bool, int, str], ...]:
    pieces: Iterable[str] = re.split(r"(\d+)", name)
    return tuple(
        (number, int(piece) if number else 0, piece)
        for number, piece in ((piece.isdecimal(), piece) for piece in pieces)
    )


MAX_THREADS = 16  # each may hold a few hundred megabytes of a huge image
BATCHES_AHEAD = 2


@dataclass(frozen=True, eq=False)
class SquareBatch:
    """The next images of a list, decoded or unreadable.

    images: B ≥ 0 decoded ones. pixels: uint8 [B, S, S, 3], RGB. unreadable: with file and reason.
    """

    images: tuple[ImageFile, ...]
    pixels: NDArray[np.uint8]
    unreadable: tuple[UnreadableImage, ...]


def square_batches(
    images: Sequence[ImageFile], *, size: int, batch_size: int
) -> Iterator[SquareBatch]:
    """Decode and resize all images to S = `size`, in order, in threads.

    Every batch but the last has exactly `batch_size` readable images.
    """
    kept: list[ImageFile] = []
    unreadable: list[UnreadableImage] = []
    pixels = np.empty((min(batch_size, len(images)), size, size, 3), dtype=np.uint8)
    for image, found in zip(images, _decoded(images, size, batch_size), strict=True):
        if isinstance(found, UnreadableImage):
            unreadable.append(found)
            continue
        pixels[len(kept)] = found
        kept.append(image)
        if len(kept) == batch_size:
            yield SquareBatch(tuple(kept), pixels, tuple(unreadable))
            kept, unreadable, pixels = [], [], np.empty_like(pixels)
    if kept or unreadable:
        yield SquareBatch(tuple(kept), pixels[: len(kept)], tuple(unreadable))


def readable_batches(
    images: Sequence[ImageFile],
    *,
    size: int,
    batch_size: int,
    skip_unreadable: bool = False,
    progress: OnProgress | None = None,
) -> Iterator[SquareBatch]:
    """Batches of `square_batches`, decoded ahead of their use.

    Without `skip_unreadable`, batches end at the first unreadable image; the rest are only checked,
    and a DataError names all unreadable ones. It is also raised if no image at all can be read.
    `progress` is called with (done, total) after each batch.
    """
    unreadable: list[UnreadableImage] = []
    done = 0
    for batch in square_batches(images, size=size, batch_size=batch_size):
        unreadable += batch.unreadable
        if skip_unreadable or not unreadable:
            yield batch
        done += len(batch.images) + len(batch.unreadable)
        if progress is not None:
            progress(done, len(images))
    if unreadable and (not skip_unreadable or len(unreadable) == len(images)):
        head = f"{len(unreadable)} of {len(images)} image(s) cannot be read:"
        hint = () if skip_unreadable else ("--skip-unreadable ignores them",)
        raise DataError("\n  ".join([head, *map(str, unreadable), *hint]))


def _decoded(
    images: Sequence[ImageFile], size: int, batch_size: int
) -> Iterator[NDArray[np.uint8] | UnreadableImage]:
    """Squares or errors, in order, decoded at most `BATCHES_AHEAD` batches ahead."""

    def attempt(image: ImageFile) -> NDArray[np.uint8] | UnreadableImage:
        try:
            return squash(decode_image(image.file), size)
        except UnreadableImage as error:
            return error

    waiting = iter(images)
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
    try:
        begun: deque[Future[NDArray[np.uint8] | UnreadableImage]] = deque(
            pool.submit(attempt, image) for image in islice(waiting, BATCHES_AHEAD * batch_size)
        )
        while begun:
            yield begun.popleft().result()
            begun.extend(pool.submit(attempt, image) for image in islice(waiting, 1))
    finally:
        pool.shutdown(cancel_futures=True)
