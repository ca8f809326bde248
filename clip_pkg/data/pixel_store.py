"""Decoded images in a memory-mapped uint8 file that all folds, configs and processes share.

Legend: N images in the manifest's order, S width and height of the stored squares in pixels.

`pixels-<digest of the images>-<S>.npy` holds [N, S, S, 3]; the `.json` file beside it records the
images, how the pixels were made, and a CRC-32 per block. A store is used only if all of these match
the manifest, and built again otherwise. Its content depends only on the bytes of the images: the
same images with other labels or patients share it.

No torch here: the launcher builds stores, and it does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import PIL
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError
from clip_pkg.data.cache import opened_store
from clip_pkg.study.manifest import Manifest

# Raised when `decode_image` or `squash` give other pixels than before; a test pins what they give.
PIXELS_VERSION = 1
# How the pixels of a store were made; a store made in another way is built again.
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
    """An open store.

    images: uint8 [N, S, S, 3], read-only, read from disk when used. file: while it is open, the
    store is not removed, see `cache`.
    """

    images: NDArray[np.uint8]
    file: BinaryIO | None = None

    @classmethod
    def open(cls, path: Path, manifest: Manifest, *, verify: bool = False) -> PixelStore:
        """Open the `.npy` file at `path` if it holds the pixels of `manifest`.

        Length, header and modification time are always checked; every byte with `verify`, or if
        the modification time differs (a copied folder). Raises StoreError.
        """
        record = read_record(path)
        if record.images != images_digest(manifest):
            raise StoreError(f"{path} was made from other images")
        if record.recipe not in (RECIPE, EARLIER_RECIPE):
            raise StoreError(f"{path} was made by another version of clip_pkg or Pillow")
        try:
            file = opened_store(path)
        except OSError as error:
            raise StoreError(f"{path} is damaged: {error}") from None
        try:
            return cls._checked(path, file, manifest, record, verify=verify)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _checked(
        cls, path: Path, file: BinaryIO, manifest: Manifest, record: StoreRecord, *, verify: bool
    ) -> PixelStore:
        try:
            status = path.stat()
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(f"{path} is damaged: {error}") from None
        shape = (len(manifest.paths), record.size, record.size, 3)
        whole = status.st_size == record.file_bytes and images.shape == shape
        if not whole or images.dtype != np.uint8:
            raise StoreError(f"{path} is damaged: its length has changed")
        store = cls(np.asarray(images), file)  # a plain array indexes faster than np.memmap
        if verify or status.st_mtime_ns != record.modified_ns:
            store._check_bytes(path, record)
        return store

    @property
    def size(self) -> int:
        """S, pixels."""
        return int(self.images.shape[1])

    def batches(self, chunks: Iterable[NDArray[np.int64]]) -> Iterator[NDArray[np.uint8]]:
        """Copies of the images at each of `chunks` [B], one after another."""
        return map(self.gather, chunks)

    def close(self) -> None:
        """Allow the store to be removed; existing references to `images` stay readable."""
        if self.file is not None:
            self.file.close()

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
    """S for an encoder with inputs of `img_size` pixels; larger for policies with random crops."""
    return round(img_size * 8 / 7) if policy == "standard" else img_size


def images_digest(manifest: Manifest) -> str:
    """Digest (hex) of the images' bytes in their order; independent of labels, groups, names."""
    return hashlib.sha256("\n".join(manifest.digests).encode("ascii")).hexdigest()


def store_path(manifest: Manifest, size: int, cache_dir: Path) -> Path:
    """Path of the store of these images at this size."""
    return cache_dir / f"pixels-{images_digest(manifest)[:16]}-{size}.npy"


def read_record(path: Path) -> StoreRecord:
    """Read the record beside `path`. Raises StoreError."""
    record_path = path.with_suffix(".json")
    try:
        value: dict[str, Any] = json.loads(record_path.read_text("utf-8"))
        return StoreRecord(**value)
    except FileNotFoundError:
        raise StoreError(f"{path} was never finished: {record_path.name} is missing") from None
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{record_path} is damaged: {error}") from None
