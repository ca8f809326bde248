"""Decoded images in a uint8 file that all folds, configs and processes share.

Legend: N images in the manifest's order, S width and height of the stored squares in pixels.

`pixels-<digest of the images>-<S>.npy` holds [N, S, S, 3]; the `.json` file beside it records the
images, how the pixels were made, and a CRC-32 per image. A store is used only if all of these match
the manifest, and built again otherwise. Its content depends only on the bytes of the images: the
same images with other labels or patients share it.

No torch here: the launcher builds stores, and it does not import torch.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import PIL
from filelock import Timeout
from numpy.typing import NDArray

from clip_pkg.base.errors import DamagedFile, DataError, UserError
from clip_pkg.base.files import replacing, write_json
from clip_pkg.base.reading import read_json
from clip_pkg.data.cache import (
    NoRoom,
    Notify,
    builder_lock,
    cached_entries,
    is_there,
    make_room,
    opened_store,
    remove_unfinished,
    shown_bytes,
    sole_changer,
)
from clip_pkg.data.pixel_blocks import IMAGES_PER_BLOCK, PixelBlock, fill_blocks, square
from clip_pkg.study.inspection import OnProgress
from clip_pkg.study.manifest import Manifest

# Increase it when `decode_image` or `squash` return different pixels; a test pins them.
PIXELS_VERSION = 1
# How pixels are made; a store with another recipe is built again.
RECIPE = {"pillow": PIL.__version__, "version": str(PIXELS_VERSION)}
# Earlier stores name the digests of two source files instead. These have the pixels of version 1.
EARLIER_RECIPE = {
    "pillow": PIL.__version__,
    "clip_pkg.planning.decoding": (
        "73d9685ece86d66647c2f6af9be84248e8958d424db4970f0cc7fccf02e15e55"
    ),
    "clip_pkg.data.pixel_blocks": (
        "01e6d10fff0390b47a19d24f78d5066a32dd0b8f6914790aea4e876aefff6271"
    ),
}


class StoreError(DataError):
    """A pixel store is missing, damaged, or belongs to other images."""


@dataclass(frozen=True)
class StoreRecord:
    """The `.json` file of a store.

    images: digest of the images, see `images_digest`. size: S. recipe: how the pixels were made.
    checksums: CRC-32 of each run of `images_per_block` images, which is 1; earlier stores have
    larger blocks. file_bytes, modified_ns: length and modification time of the `.npy` file.
    """

    images: str
    size: int
    recipe: dict[str, str]
    images_per_block: int
    checksums: list[int]
    file_bytes: int
    modified_ns: int


@dataclass(eq=False)
class PixelStore:
    """An open store, whose images are checked against their CRC-32 each time they are read.

    An image whose pixels were damaged, cut off or cannot be read is decoded again from its file,
    so that no wrong pixel leaves a store, whatever happens to it while it is used. Read with
    system calls: a memory map of a file that is cut off ends the process.

    record: with a checksum per image. file: while it is open, the store is not removed, see
    `cache`. begin: its byte at which image 0 starts. notify: receives one sentence when an image
    had to be decoded again, once.
    """

    path: Path
    manifest: Manifest
    record: StoreRecord
    file: BinaryIO
    begin: int
    notify: Notify
    _is_damaged: bool = field(init=False, default=False)

    @classmethod
    def open(
        cls,
        path: Path,
        manifest: Manifest,
        *,
        verify: bool = False,
        notify: Notify = lambda sentence: None,
    ) -> PixelStore:
        """Open the `.npy` file at `path` if it holds the pixels of `manifest`.

        Length, header and modification time are always checked; every byte with `verify`, or if
        the modification time differs (a copied folder). Raises StoreError.
        """
        record_path = path.with_suffix(".json")
        try:
            record = read_json(record_path, StoreRecord)
        except FileNotFoundError:
            raise StoreError(f"{path} was never finished: {record_path.name} is missing") from None
        except DamagedFile as error:
            raise StoreError(f"{record_path} {error.reason}") from None
        if record.images != images_digest(manifest):
            raise StoreError(f"{path} was made from other images")
        if record.recipe not in (RECIPE, EARLIER_RECIPE):
            raise StoreError(f"{path} was made by another version of clip_pkg or Pillow")
        with ExitStack() as on_error:
            try:
                file = on_error.enter_context(opened_store(path))
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                status = os.fstat(file.fileno())
            except (OSError, ValueError, UserError) as error:
                raise StoreError(f"{path} is damaged: {error}") from None
            begin, count, block = file.tell(), len(manifest), record.images_per_block
            whole = status.st_size == record.file_bytes == begin + math.prod(shape)
            if not whole or dtype != np.uint8 or shape != (count, record.size, record.size, 3):
                raise StoreError(f"{path} is damaged: its length or its header has changed")
            if block < 1 or len(record.checksums) != -(-count // block):
                raise StoreError(f"{record_path} is damaged: it has too few checksums")
            if verify or status.st_mtime_ns != record.modified_ns or block > 1:
                record = _verified(path, record, file, count)
                record = replace(record, modified_ns=status.st_mtime_ns)
            on_error.pop_all()
        return cls(path, manifest, record, file, begin, notify)

    @property
    def size(self) -> int:
        """S, pixels."""
        return self.record.size

    def __len__(self) -> int:
        return len(self.manifest)

    def batches(self, chunks: Iterable[NDArray[np.int64]]) -> Iterator[NDArray[np.uint8]]:
        """The images at each of `chunks` [B]: uint8 [B, S, S, 3].

        Raises DataError if an image is damaged here and its file has changed or is gone.
        """
        return map(self._read, chunks)

    def _read(self, chunk: NDArray[np.int64]) -> NDArray[np.uint8]:
        pixels = np.empty((len(chunk), self.size, self.size, 3), dtype=np.uint8)
        for row, index in enumerate(chunk.tolist()):
            place = pixels[row]
            count = 0
            with suppress(OSError):
                self.file.seek(self.begin + index * place.nbytes)
                count = self.file.readinto(place.data)  # type: ignore[attr-defined]
            if count < place.nbytes or zlib.crc32(place.data) != self.record.checksums[index]:
                self._repair(index, place)
        return pixels

    def _repair(self, index: int, place: NDArray[np.uint8]) -> None:
        """Decode an image into `place` [S, S, 3], and write it into the file if possible."""
        if not self._is_damaged:
            self._is_damaged = True
            self.notify(f"{self.path} was damaged meanwhile; its damaged images are decoded again")
        place[...] = square(self.manifest.file(index), self.manifest.digests[index], self.size)
        # Not into a file that another process has built in its place.
        with suppress(OSError):
            if is_there(self.file, self.path):
                with self.path.open("r+b") as stream:
                    stream.seek(self.begin + index * place.nbytes)
                    stream.write(place.data)

    def close(self) -> None:
        """Allow the store to be removed."""
        self.file.close()


def _verified(path: Path, record: StoreRecord, file: BinaryIO, count: int) -> StoreRecord:
    """Read every pixel; returns the record with a checksum per image. Raises StoreError.

    file: at the first image. count: N.
    """
    image_bytes, per_block = record.size**2 * 3, record.images_per_block
    checksums: list[int] = []
    for number, checksum in enumerate(record.checksums):
        first = number * per_block
        images = [file.read(image_bytes) for _ in range(min(per_block, count - first))]
        found = 0
        for image in images:
            found = zlib.crc32(image, found)
        if found != checksum:
            raise StoreError(f"{path} is damaged from image {first} on")
        checksums += [found] if per_block == 1 else map(zlib.crc32, images)
    return replace(record, images_per_block=1, checksums=checksums)


def store_size(img_size: int, policy: Literal["none", "minimal", "standard"]) -> int:
    """S for an encoder with inputs of `img_size` pixels; larger for policies with random crops."""
    return round(img_size * 8 / 7) if policy == "standard" else img_size


def images_digest(manifest: Manifest) -> str:
    """Digest (hex) of the images' bytes in their order; independent of labels, groups, names."""
    return hashlib.sha256("\n".join(manifest.digests).encode("ascii")).hexdigest()


def store_path(manifest: Manifest, size: int, cache_dir: Path) -> Path:
    """Path of the store of these images at this size."""
    return cache_dir / f"pixels-{images_digest(manifest)[:16]}-{size}.npy"


def build_store(
    manifest: Manifest,
    size: int,
    cache_dir: Path,
    *,
    workers: int = 1,
    limit: int | None = None,
    kept: Collection[Path] = (),
    progress: OnProgress = lambda done, total: None,
    notify: Notify = lambda sentence: None,
) -> Path:
    """Make sure that a valid store of `size`×`size` squares exists; returns its path.

    An existing store is checked to the last byte. One process builds, others wait for it.

    Args:
        manifest: The images; files that have changed since then are an error.
        size: S, pixels; see `store_size`.
        cache_dir: Folder of the stores; created if missing.
        workers: Decoding processes; 0 and 1 mean this process.
        limit: Maximum bytes of all files of the cache; other files are removed to make room.
        kept: Stores that must not be removed.
        progress: Called with (done, total) after each block; not if the store exists.
        notify: Receives one sentence about each rebuild, wait and removal.

    Raises:
        DataError: An image cannot be decoded or has changed since the manifest was made.
        NoRoom: The store does not fit on the disk or into the limit.
        UserError: The store cannot be written.
    """
    path = store_path(manifest, size, cache_dir)
    kept = {path, *kept}
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        lock = builder_lock(path)  # the system releases it if this process is killed
        try:
            held = lock.acquire(blocking=False)
        except Timeout:
            notify(f"waiting for another process that builds {path.name}")
            held = lock.acquire()
        with held:
            if path.exists():
                try:
                    store = PixelStore.open(path, manifest, verify=True)
                except StoreError as problem:
                    notify(f"{problem}; decoding the images again")
                else:
                    store.close()
                    with suppress(OSError):  # so that folds need not check a copied store again
                        write_json(path.with_suffix(".json"), asdict(store.record))
                    _stay_within(limit, cache_dir, kept, notify)
                    return path
            _build(
                path,
                manifest,
                size,
                workers=workers,
                limit=limit,
                kept=kept,
                progress=progress,
                notify=notify,
            )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(f"the disk of {cache_dir} is full ({error.strerror})") from None
        raise UserError(
            f"{cache_dir}: the decoded images cannot be written ({error.strerror or error}); "
            "check the folder"
        ) from None
    return path


def _build(
    path: Path,
    manifest: Manifest,
    size: int,
    *,
    workers: int,
    limit: int | None,
    kept: Collection[Path],
    progress: OnProgress,
    notify: Notify,
) -> None:
    """Write a store and its record; the caller holds the lock."""
    remove_unfinished(path)
    record_path = path.with_suffix(".json")
    record_path.unlink(missing_ok=True)  # a new `.npy` must never be read with the old record
    path.unlink(missing_ok=True)
    count = len(manifest)
    shape = (count, size, size, 3)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    begin, length = header.tell(), header.tell() + math.prod(shape)
    checksums: dict[int, list[int]] = {}
    done = 0
    with ExitStack() as stack:
        with sole_changer(path.parent):
            make_room(path.parent, length, limit=limit, kept=kept, say=notify)
            stream = stack.enter_context(replacing(path))
            stream.write(header.getvalue())
            stream.flush()
            # Full length from the start, so that others see the space as taken.
            os.truncate(stream.fileno(), length)
        blocks = (
            PixelBlock(
                first=first,
                files=tuple(manifest.data_dir / name for name in manifest.paths[first:stop]),
                digests=manifest.digests[first:stop],
                size=size,
                target=Path(stream.name),
                offset=begin + first * size * size * 3,
            )
            for first in range(0, count, IMAGES_PER_BLOCK)
            for stop in (first + IMAGES_PER_BLOCK,)
        )
        for block, found in fill_blocks(blocks, workers=workers):
            checksums[block.first] = found
            done += len(block.files)
            progress(done, count)
    status = path.stat()
    record = StoreRecord(
        images=images_digest(manifest),
        size=size,
        recipe=RECIPE,
        images_per_block=1,
        checksums=[one for first in sorted(checksums) for one in checksums[first]],
        file_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
    )
    write_json(record_path, asdict(record))


def _stay_within(limit: int | None, cache_dir: Path, kept: Collection[Path], say: Notify) -> None:
    """Remove other files while the cache with an existing store exceeds its limit."""
    if limit is None:
        return
    with sole_changer(cache_dir):
        make_room(cache_dir, 0, limit=limit, kept=kept, say=say)
        taken = sum(entry.size for entry in cached_entries(cache_dir))
    if taken > limit:
        say(
            f"the cache takes {shown_bytes(taken)}, more than its limit of "
            f"{shown_bytes(limit)}, but all of it is in use"
        )
