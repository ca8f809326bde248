"""Builds pixel stores: decodes every image of a set once, if the result fits on the disk.

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
from clip_pkg.study.inspection import OnProgress
from clip_pkg.study.manifest import Manifest

MakeRoom = Callable[[Path, int], None]  # makes room for a store of that many bytes


def build_store(
    manifest: Manifest,
    size: int,
    cache_dir: Path,
    *,
    workers: int = 1,
    limit: int | None = None,
    kept: Collection[Path] = (),
    progress: OnProgress | None = None,
    notify: Notify | None = None,
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
    assert len(manifest.paths) > 0, "the manifest has no images"
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
        show = progress or (lambda *_: None)
        _build(manifest, size, path, workers=workers, room=room, progress=show)
    return path


def _build(
    manifest: Manifest, size: int, path: Path, *, workers: int, room: MakeRoom, progress: OnProgress
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
            # Full length from the start, so that others see the space as taken.
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
    """Header of the `.npy` file of a uint8 array."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def _stay_within(limit: int | None, path: Path, kept: Collection[Path], say: Notify) -> None:
    """Remove other files while the cache with an existing store exceeds its limit."""
    if limit is None:
        return
    with sole_changer(path.parent):
        room_for(path, 0, limit=limit, kept=kept, say=say)
        taken = sum(entry.size for entry in cached_entries(path.parent))
    if taken > limit:
        say(
            f"the cache takes {shown_bytes(taken)}, more than its limit of "
            f"{shown_bytes(limit)}, but all of it is in use"
        )


def _blocks(manifest: Manifest, size: int, target: Path, begin: int) -> Iterator[Block]:
    """Divide the manifest into blocks; pixels start at byte `begin` of `target`."""
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
    """Hold the lock of the store at `path`; the system releases it if this process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = builder_lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"waiting for another process that builds {path.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _sentences_for_write_errors(path: Path) -> Iterator[None]:
    """Convert errors of a full disk or a read-only folder to messages."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(f"the disk of {path.parent} is full ({error.strerror})") from None
        raise UserError(
            f"{path.parent}: the decoded images cannot be written ({error.strerror or error}); "
            "check the folder"
        ) from None
