"""Builds pixel stores: decodes every image of a set once, if there is room for the result.

No torch here: the launcher builds stores, and it does not import torch.
"""

from __future__ import annotations

import errno
import io
import math
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from filelock import Timeout

from clip_pkg.base.errors import UserError
from clip_pkg.base.files import replacing, write_json
from clip_pkg.data.cache import (
    NoRoom,
    Notify,
    builder_lock,
    cached_entries,
    remove_unfinished,
    room_for,
    shown_bytes,
    sole_changer,
)
from clip_pkg.data.pixel_blocks import IMAGES_PER_BLOCK, Block, fill_blocks
from clip_pkg.data.pixel_store import (
    RECIPE,
    PixelStore,
    StoreError,
    StoreRecord,
    images_digest,
    store_path,
)
from clip_pkg.study.manifest import Manifest

Progress = Callable[[int, int], None]  # images done, images in all
Room = Callable[[Path, int], None]  # makes room for a store of so many bytes


def build_store(
    manifest: Manifest,
    size: int,
    cache_dir: Path,
    *,
    workers: int = 1,
    limit: int | None = None,
    kept: Collection[Path] = (),
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
        limit: Bytes that all files of the cache may take; others are removed to make room.
        kept: Stores that must not be removed for it, used or not.
        progress: Called as images get done, not at all if there is nothing to do.
        notify: Told why something is done again or waited for, and what was removed.

    Raises:
        DataError: An image cannot be decoded or has changed since the manifest was made.
        NoRoom: The store does not fit onto the disk or into the limit.
        UserError: The store cannot be written.
    """
    assert len(manifest.paths) > 0, "a manifest without images"
    path = store_path(manifest, size, cache_dir)
    say = notify or (lambda _: None)
    with _sentences_for_write_errors(path), _sole_builder(path, say):
        if path.exists():
            try:
                PixelStore.open(path, manifest, verify=True).close()
            except StoreError as problem:
                say(f"{problem}; decoding the images again")
            else:
                _stay_within(limit, path, kept, say)
                return path
        room = partial(room_for, limit=limit, kept=kept, say=say)
        tell = progress or (lambda *_: None)
        _build(manifest, size, path, workers=workers, room=room, progress=tell)
    return path


def _build(
    manifest: Manifest, size: int, path: Path, *, workers: int, room: Room, progress: Progress
) -> None:
    """Write the store; the caller holds the lock."""
    remove_unfinished(path)
    record_path = path.with_suffix(".json")
    record_path.unlink(missing_ok=True)  # a new `.npy` must never be read with the old record
    path.unlink(missing_ok=True)
    shape = (len(manifest.paths), size, size, 3)
    checksums: dict[int, int] = {}
    done = 0
    with ExitStack() as stack:
        with sole_changer(path.parent):
            header = _header(shape)
            room(path, len(header) + math.prod(shape))
            stream = stack.enter_context(replacing(path))
            stream.write(header)
            stream.flush()
            # At once as long as it will be: others who look for room are to know.
            os.truncate(stream.fileno(), len(header) + math.prod(shape))
        blocks = _blocks(manifest, size, Path(stream.name), len(header))
        for block in fill_blocks(blocks, workers=workers):
            checksums[block.first] = block.checksum
            done += block.images
            progress(done, shape[0])
    status = path.stat()
    record = StoreRecord(
        images=images_digest(manifest),
        size=size,
        recipe=RECIPE,
        images_per_block=IMAGES_PER_BLOCK,
        checksums=[checksums[first] for first in sorted(checksums)],
        file_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
    )
    write_json(record_path, asdict(record))


def _header(shape: tuple[int, ...]) -> bytes:
    """Beginning of the `.npy` file of a uint8 array."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def _stay_within(limit: int | None, path: Path, kept: Collection[Path], say: Notify) -> None:
    """Remove what is too much beside a store that is there already."""
    if limit is None:
        return
    with sole_changer(path.parent):
        room_for(path, 0, limit=limit, kept=kept, say=say)
        taken = sum(entry.size for entry in cached_entries(path.parent))
    if taken > limit:
        say(
            f"the cache takes {shown_bytes(taken)}, more than its limit of "
            f"{shown_bytes(limit)}: all of it is in use"
        )


def _blocks(manifest: Manifest, size: int, target: Path, begin: int) -> Iterator[Block]:
    """Cut the manifest into blocks; pixels begin at byte `begin` of `target`."""
    for first in range(0, len(manifest.paths), IMAGES_PER_BLOCK):
        rows = slice(first, first + IMAGES_PER_BLOCK)
        yield Block(
            first=first,
            files=tuple(manifest.data_dir / name for name in manifest.paths[rows]),
            digests=manifest.digests[rows],
            size=size,
            target=target,
            offset=begin + first * size * size * 3,
        )


@contextmanager
def _sole_builder(path: Path, say: Notify) -> Iterator[None]:
    """Hold the lock of the store at `path`; the system releases it if we are killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = builder_lock(path)
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
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(f"{path.parent} filled up on the way ({error.strerror})") from None
        raise UserError(
            f"{path.parent}: the decoded images cannot be written ({error.strerror or error}); "
            "check the folder"
        ) from None
