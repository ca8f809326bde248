"""Damaged and crafted files of a run, and commands that read them in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_pkg.cli.main import main

Damage = Callable[[Path], None]
Command = Callable[[Path], int]


def put(path: Path, content: bytes) -> None:
    """Write `content` into a new file, because the old one may be a hard link to another run's."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def _cut(path: Path) -> None:
    content = path.read_bytes()
    put(path, content[: len(content) // 2])


def _zeros(path: Path) -> None:
    put(path, bytes(path.stat().st_size))


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x15
    put(path, bytes(content))


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "kept.txt").write_text("somebody's")


def _fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _huge(path: Path) -> None:
    put(path, b"")
    with path.open("r+b") as stream:
        stream.truncate(2**40)  # sparse


def _loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def _with(content: bytes) -> Damage:
    return lambda path: put(path, content)


DAMAGES: Mapping[str, Damage] = {
    "cut": _cut,
    "missing": lambda path: path.unlink(missing_ok=True),
    "empty": _with(b""),
    "[]": _with(b"[]"),
    "null": _with(b"null"),
    "{}": _with(b"{}"),
    "nested": _with(b"[" * 100_000 + b"]" * 100_000),
    "not UTF-8": _with(b'{"name": "\xff\xfe"}'),
    "zeros": _zeros,
    "one byte": _flipped,
    "folder": _folder,
    "FIFO": _fifo,
    "huge": _huge,
    "loop": _loop,
}


def copy_run(run: Path, to: Path) -> Path:
    """Copy a run for commands that only read: its files are hard links."""
    shutil.copytree(run, to, copy_function=os.link)
    return to


# --- crafted JSON

MEAN: tuple[Any, ...] = (None, [], {}, "x", True, -1, 10**400, 1e308, [[{}]], {"a": {"b": [None]}})


def crafted(value: Any, depth: int = 2) -> Iterator[tuple[str, Any]]:
    """The value with something mean in one place, for each place in its upper levels."""

    def places(one: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        if path:
            yield path
        keys: list[Any] = []
        if len(path) < depth and isinstance(one, (dict, list)):
            keys = list(one) if isinstance(one, dict) else list(range(min(len(one), 1)))
        for key in keys:
            yield from places(one[key], (*path, key))

    for number, path in enumerate(places(value, ())):
        changed = json.loads(json.dumps(value))
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        mean = MEAN[number % len(MEAN)]
        inner[path[-1]] = mean
        yield f"{'.'.join(map(str, path))} = {str(mean)[:20]}", changed
    if isinstance(value, dict):
        for key in value:
            yield f"without {key}", {name: one for name, one in value.items() if name != key}


# --- commands


@dataclass(frozen=True)
class Answer:
    """How a command ended. code: -1 after an exception, which `text` then ends with."""

    code: int
    text: str
    seconds: float


def ask(run: Callable[[], int]) -> Answer:
    started, shown = time.monotonic(), io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            code = run()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else -1
        except BaseException:
            code = -1
            shown.write(traceback.format_exc())
    return Answer(code, shown.getvalue(), time.monotonic() - started)


def command(*words: str | Path) -> int:
    return main([str(word) for word in words])


def load(run: Path) -> int:
    """`load_run` and its tables; 1 if it warned."""
    from clip_pkg.api.run import load_run
    from clip_pkg.base.errors import UserError

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = load_run(run)
            _ = found.configs, found.folds, found.histories, found.predictions
            _ = found.predictions_last, found.summaries, found.per_class
        except UserError as error:
            print(error)
            return 2
    for warning in caught:
        print(warning.message)
    return int(bool(caught))
