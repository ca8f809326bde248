"""Every image decoded once: a memory-mapped uint8 file that all folds, configs and processes share.

Legend: N images in the manifest's order, S side of the stored square in pixels.

`pixels-<digest of the images>-<S>.npy` holds [N, S, S, 3]; the `.json` file beside it says what
the pixels were made from and how, with a CRC-32 per block. A store is used only if all of that fits
the manifest in hand, and made again otherwise. What a store holds follows from the bytes of the
images alone: other labels or patients for the same images share it.

No torch here: the launcher builds stores, and it does not import torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from clip_pkg.atomic import replacing, write_json
from clip_pkg.data import pixel_blocks
from clip_pkg.data.pixel_blocks import IMAGES_PER_BLOCK, Block, FilledBlock, fill_blocks
from clip_pkg.errors import DataError, UserError
from clip_pkg.planning import decoding
from clip_pkg.planning.manifest import Manifest

# How pixels come about; a store made in another way is made again. The modules' own text stands
# for their version, because a number would be forgotten some day.
RECIPE = {
    "pillow": PIL.__version__,
    **{
        module.__name__: hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
        for module in (decoding, pixel_blocks)
    },
}
SPACE_TO_LEAVE = 64 * 2**20  # bytes that a store leaves free, for logs and checkpoints

Progress = Callable[[int, int], None]  # images done, images in all
Notify = Callable[[str], None]  # one sentence for the user


class StoreError(DataError):
    """A pixel store is missing, damaged, or belongs to other images."""


@dataclass(frozen=True)
class StoreRecord:
    """The `.json` file of a store.

    images: digest of the images, see `images_digest`. size: S. recipe: how pixels came about.
    checksums: CRC-32 of each run of `images_per_block` images. file_bytes, modified_ns: length and
    modification time of the `.npy` file.
    """

    images: str
    size: int
    recipe: dict[str, str]
    images_per_block: int
    checksums: list[int]
    file_bytes: int
    modified_ns: int


@dataclass(frozen=True, eq=False)
class PixelStore:
    """An open store. images: uint8 [N, S, S, 3], read-only, read from the disk as it is used."""

    images: NDArray[np.uint8]

    @classmethod
    def open(cls, path: Path, manifest: Manifest, *, verify: bool = False) -> PixelStore:
        """Open the `.npy` file at `path` if it holds the pixels of `manifest`.

        Length, header and modification time are always checked; every byte with `verify`, and
        when only the modification time differs (a copied folder). Raises StoreError.
        """
        record = _read_record(path)
        made_from = (record.images, record.recipe)
        if made_from != (images_digest(manifest), RECIPE):
            raise StoreError(f"{path} was made from other images or in another way")
        try:
            status = path.stat()
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(f"{path} is damaged: {error}") from None
        shape = (len(manifest.paths), record.size, record.size, 3)
        whole = status.st_size == record.file_bytes and images.shape == shape
        if not whole or images.dtype != np.uint8:
            raise StoreError(f"{path} is damaged: it is not as long as it was written")
        store = cls(np.asarray(images))  # the plain view indexes faster than np.memmap
        if verify or status.st_mtime_ns != record.modified_ns:
            store._check_bytes(path, record)
        return store

    @property
    def size(self) -> int:
        """S, pixels."""
        return int(self.images.shape[1])

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy of the images at `indices` [B]: uint8 [B, S, S, 3]."""
        return self.images[indices]

    def _check_bytes(self, path: Path, record: StoreRecord) -> None:
        for number, expected in enumerate(record.checksums):
            first = number * record.images_per_block
            block = self.images[first : first + record.images_per_block]
            if zlib.crc32(block.data) != expected:
                raise StoreError(f"{path} is damaged from image {first} on")


def store_size(img_size: int, policy: Literal["none", "minimal", "standard"]) -> int:
    """S for an encoder that sees `img_size` pixels: room for random crops where the policy cuts."""
    return round(img_size * 8 / 7) if policy == "standard" else img_size


def images_digest(manifest: Manifest) -> str:
    """Digest, hex, of the images' bytes in their order; labels, groups and names have no part."""
    return hashlib.sha256("\n".join(manifest.digests).encode("ascii")).hexdigest()


def store_path(manifest: Manifest, size: int, cache_dir: Path) -> Path:
    """Where the store of these images at this size is, or will be."""
    return cache_dir / f"pixels-{images_digest(manifest)[:16]}-{size}.npy"


def build_store(
    manifest: Manifest,
    size: int,
    cache_dir: Path,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> Path:
    """Make sure that a whole, fitting store of `size`×`size` squares exists; returns its path.

    An existing one is read and checked to the last byte. One process builds, others wait for it.

    Args:
        manifest: The images; decoding checks that the files still have the listed bytes.
        size: S, pixels; see `store_size`.
        cache_dir: Folder of the stores, made if missing.
        workers: Processes that decode; 0 and 1 mean this one.
        progress: Called as images get done, not at all if there is nothing to do.
        notify: Told why something is done again or waited for.

    Raises:
        DataError: An image cannot be decoded or has changed since the manifest was made.
        UserError: The store cannot be written.
    """
    assert len(manifest.paths) > 0, "a manifest without images"
    path = store_path(manifest, size, cache_dir)
    say = notify or (lambda _: None)
    with _sentences_for_write_errors(path), _sole_builder(path, say):
        if path.exists():
            try:
                PixelStore.open(path, manifest, verify=True)
            except StoreError as problem:
                say(f"{problem}; decoding the images again")
            else:
                return path
        _build(manifest, size, path, workers, progress or (lambda *_: None))
    return path


def _build(manifest: Manifest, size: int, path: Path, workers: int, progress: Progress) -> None:
    """Write the store; the caller holds the lock."""
    for leftover in path.parent.glob(f".{path.stem}.*.tmp"):  # of builders that were killed
        leftover.unlink()
    record_path = path.with_suffix(".json")
    record_path.unlink(missing_ok=True)  # a new `.npy` must never be read with the old record
    shape = (len(manifest.paths), size, size, 3)
    _check_space(path.parent, shape)
    filled: list[FilledBlock] = []
    with replacing(path) as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.flush()
        target, begin = Path(stream.name), stream.tell()
        for block in fill_blocks(_blocks(manifest, size, target, begin), workers=workers):
            filled.append(block)
            progress(sum(done.images for done in filled), shape[0])
    status = path.stat()
    record = StoreRecord(
        images=images_digest(manifest),
        size=size,
        recipe=RECIPE,
        images_per_block=IMAGES_PER_BLOCK,
        checksums=[block.checksum for block in sorted(filled, key=lambda block: block.first)],
        file_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
    )
    write_json(record_path, asdict(record))


def _blocks(manifest: Manifest, size: int, target: Path, begin: int) -> list[Block]:
    """Cut the manifest into blocks; pixels begin at byte `begin` of `target`."""
    blocks = []
    for first in range(0, len(manifest.paths), IMAGES_PER_BLOCK):
        rows = slice(first, first + IMAGES_PER_BLOCK)
        blocks.append(
            Block(
                first=first,
                files=tuple(manifest.data_dir / name for name in manifest.paths[rows]),
                digests=manifest.digests[rows],
                size=size,
                target=target,
                offset=begin + first * size * size * 3,
            )
        )
    return blocks


def _read_record(path: Path) -> StoreRecord:
    """Read the record beside `path`."""
    record_path = path.with_suffix(".json")
    try:
        value: dict[str, Any] = json.loads(record_path.read_text("utf-8"))
        return StoreRecord(**value)
    except FileNotFoundError:
        raise StoreError(f"{path} was never finished: {record_path.name} is missing") from None
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{record_path} is damaged: {error}") from None


def _check_space(folder: Path, shape: tuple[int, int, int, int]) -> None:
    """Refuse to start what the disk cannot hold."""
    needed = int(np.prod(shape, dtype=np.int64)) + SPACE_TO_LEAVE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: {shape[0]} decoded images of {shape[1]}×{shape[2]} pixels need {needed:,} "
            f"bytes there, {free:,} are free; free some, write to another disk, or choose a "
            "smaller img_size"
        )


@contextmanager
def _sole_builder(path: Path, say: Notify) -> Iterator[None]:
    """Hold the lock of the store at `path`; the system releases it if we are killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"waiting for another process that prepares {path.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _sentences_for_write_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a forbidden folder into a sentence."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space or write to another disk" if full else "check the folder"
        raise UserError(
            f"{path.parent}: the decoded images cannot be written ({error.strerror or error}); "
            f"{advice}"
        ) from None
