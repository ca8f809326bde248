"""The pixel stores of a run: built before its folds, or left out where there is no room."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from clip_pkg.cli.preparation import PreparedConfig
from clip_pkg.cli.terminal import Terminal
from clip_pkg.data.cache_files import NoRoom, is_there, opened_store
from clip_pkg.data.pixel_store import store_path, store_size
from clip_pkg.data.store_builder import build_store
from clip_pkg.paths import RunPaths
from clip_pkg.scheduling.devices import usable_cores


def cache_folder(parsed: argparse.Namespace, run: RunPaths) -> Path:
    """Where decoded pixels, text features and image lists go."""
    folder: Path = (parsed.cache_dir or run.cache).resolve()
    return folder


def pixel_store(one: PreparedConfig, cache: Path) -> Path:
    """Where the decoded images of a config are, or would be."""
    return store_path(one.manifest, _size(one), cache)


@contextmanager
def pixel_stores(
    parsed: argparse.Namespace,
    run: RunPaths,
    configs: Sequence[PreparedConfig],
    terminal: Terminal,
) -> Iterator[frozenset[Path]]:
    """Decode the images of configs, once per size, into stores that nobody removes meanwhile.

    Gives the paths of the stores that there was room for; what happens without is told.
    """
    cache = cache_folder(parsed, run)
    by_store = {pixel_store(one, cache): one for one in configs}

    def build(one: PreparedConfig) -> Path:
        size = _size(one)
        with terminal.counting(f"Decoding images to {size} px") as progress:
            return build_store(
                one.manifest,
                size,
                cache,
                workers=min(one.config.num_workers, usable_cores()),
                limit=parsed.cache_limit,
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
                terminal.line(
                    f"NOTE: the images are not decoded beforehand to {_size(one)} px: {reason}. "
                    "Instead every fold decodes them again in every epoch, with up to num_workers "
                    f"({one.config.num_workers}) processes. The results are the same; it takes "
                    "longer where decoding is slower than training.",
                    "yellow",
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


def _size(one: PreparedConfig) -> int:
    return store_size(one.config.img_size, one.config.augmentation)
