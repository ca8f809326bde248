"""Benchmarks of whole programs, with the programs run inside the tests' process."""

from __future__ import annotations

import importlib
import io
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
import torch
from open_clip import factory

from benchmarks import commands, image_sets, trainer
from benchmarks.commands import Finished
from clip_pkg.cli import main


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Spare the seconds that imports take, and the drawing of large images."""
    monkeypatch.setattr(commands, "run_python", run_python)
    monkeypatch.setattr(trainer, "run_python", run_python)
    monkeypatch.setattr(image_sets, "SIDES", (60, 90))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    benchmark, threads = torch.backends.cudnn.benchmark, torch.get_num_threads()
    yield
    torch.backends.cudnn.benchmark = benchmark
    torch.set_num_threads(threads)


def run_python(words: Sequence[str | Path], device: str) -> Finished:
    """Do what `commands.run_python` does, but here."""
    assert device == "cpu"
    told = [str(word) for word in words]
    started = time.perf_counter()
    with redirect_stdout(io.StringIO()) as output, loggers_put_back():
        if told[0] == "-m":
            importlib.import_module(told[1]).main(told[2:])
        else:
            assert main([*told[1:], "--executor", "inline"]) == 0, output.getvalue()
    return Finished(output.getvalue(), time.perf_counter() - started)


@contextmanager
def loggers_put_back() -> Iterator[None]:
    """Take away what a program adds to the loggers of its process."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    levels = {one: one.level for one in (root, *loggers())}
    try:
        yield
    finally:
        for handler in [one for one in root.handlers if one not in handlers]:
            handler.close()
        root.handlers = handlers
        for logger in (root, *loggers()):
            logger.setLevel(levels.get(logger, logging.NOTSET))


def loggers() -> list[logging.Logger]:
    """All there are, but the root."""
    known = logging.getLogger().manager.loggerDict.values()
    return [one for one in known if isinstance(one, logging.Logger)]
