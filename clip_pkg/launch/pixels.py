"""The pixel stores of a run: built before its folds, or left out where there is no room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clip_pkg.base.cores import usable_cores
from clip_pkg.data.cache import NoRoom, is_there, opened_store
from clip_pkg.data.pixel_store import build_store, store_path, store_size
from clip_pkg.launch.request import RunFolders
from clip_pkg.launch.terminal import Terminal
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.preflight import PreparedConfig, Pretraining


@dataclass(frozen=True, eq=False)
class _Decoding:
    """Images to be decoded to squares of `size` pixels, by so many processes."""

    manifest: Manifest
    size: int
    workers: int

    def path(self, cache: Path) -> Path:
        """Where the decoded images are, or would be."""
        return store_path(self.manifest, self.size, cache)


def pixel_store(one: PreparedConfig, images: Manifest, cache: Path) -> Path:
    """Where the decoded images of one of a config's sets are, or would be."""
    return _of_folds(one, images).path(cache)


def pretraining_store(one: Pretraining, cache: Path) -> Path:
    """Where the decoded images of a pre-training are, or would be."""
    return _of_pretraining(one).path(cache)


def _of_folds(one: PreparedConfig, images: Manifest) -> _Decoding:
    size = store_size(one.config.img_size, one.config.augmentation)
    return _Decoding(images, size, one.config.num_workers)


def _of_pretraining(one: Pretraining) -> _Decoding:
    size = store_size(one.config.img_size, one.config.augmentation)
    return _Decoding(one.manifest, size, one.config.num_workers)


@contextmanager
def pixel_stores(
    folders: RunFolders,
    configs: Sequence[PreparedConfig],
    terminal: Terminal,
) -> Iterator[frozenset[Path]]:
    """Decode the images of configs, once per size, into stores that are kept until the end.

    Yields the paths of the stores that there was room for; prints what happens without.
    """
    cache = folders.cache
    needed = [
        decoding
        for one in configs
        for decoding in (
            *(_of_folds(one, images) for images in one.image_sets),
            *(_of_pretraining(pretraining) for pretraining in one.pretrainings.values()),
        )
    ]
    by_store = {one.path(cache): one for one in needed}

    def build(one: _Decoding) -> Path:
        with terminal.counting(f"Decoding images to {one.size} px") as progress:
            return build_store(
                one.manifest,
                one.size,
                cache,
                workers=min(one.workers, usable_cores()),
                limit=folders.cache_limit,
                kept=by_store,
                progress=progress,
                notify=terminal.line,
            )

    ready = set()
    with ExitStack() as held:
        for one in by_store.values():
            try:
                ready.add(_held(held, partial(build, one)))
            except NoRoom as reason:
                terminal.note(
                    f"the images are not decoded in advance to {one.size} px: {reason}. Instead "
                    "every fold decodes them again in every epoch, with up to num_workers "
                    f"({one.workers}) processes. The results are the same; training takes longer "
                    "if decoding is slower than training."
                )
        yield frozenset(ready)


def _held(held: ExitStack, build: Callable[[], Path]) -> Path:
    """Build a store and keep it open until `held` is left."""
    while True:
        path = build()
        try:
            stream = held.enter_context(opened_store(path))
        except FileNotFoundError:
            continue  # another run made room just now
        if is_there(stream, path):
            return path
