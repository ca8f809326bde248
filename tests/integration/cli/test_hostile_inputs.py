"""Whatever users point at: refused with a sentence, soon, with nothing written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clip_pkg.cli import main
from support.refusals import Refusals
from support.tiny import TINY, make_folder

CONFIG = {**TINY, "name": "tiny", "use_cv": False, "epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images`, `config.json` and the trained `out/tiny`."""
    root = tmp_path_factory.mktemp("trained")
    make_folder(root / "images", {"red": 8, "green": 8})
    (root / "config.json").write_text(json.dumps(CONFIG))
    words = ["--data-dir", "images", "--config-file", "config.json", "--output-dir", "out"]
    with contextlib.chdir(root):
        assert main([*words, "--executor", "inline", "--log-dir", "logs"]) == 0
    return root


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `images` as trained on, and nothing else."""
    shutil.copytree(trained / "images", tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def training(**changes: Any) -> list[str]:
    """Words that train `CONFIG` with changes, written into a file in the current folder."""
    Path("config.json").write_text(json.dumps({**CONFIG, **changes}))
    words = ["--data-dir", "images", "--config-file", "config.json", "--output-dir", "out"]
    return [*words, "--executor", "inline", "--log-dir", "logs"]


def replaced(words: list[str], flag: str, value: object) -> list[str]:
    """The words with another value of a flag, which is added where it is missing."""
    if flag not in words:
        return [*words, flag, str(value)]
    at = words.index(flag)
    return [*words[: at + 1], str(value), *words[at + 2 :]]


# What people or programs may leave where a file is expected, and reading never ends or waits.
def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def kernel_log(path: Path) -> None:
    path.symlink_to("/proc/kmsg")


def huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(10**13)


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path.name)


NO_FILES = (fifo, unix_socket, endless, kernel_log, huge, folder, loop)


def test_hangs(place: Path, trained: Path) -> None:
    cases = Refusals(place)
    model = trained / "out/tiny"
    for make in NO_FILES:
        name = make.__name__
        bad = {suffix: place / f"{name}{suffix}" for suffix in ("", ".json", ".csv", ".pth")}
        bad |= {".safetensors": place / f"{name}.safetensors", ".png": place / f"{name}.png"}
        for path in bad.values():
            make(path)
        json_file, table = bad[".json"], bad[".csv"]
        listing = place / f"listing {name}.csv"
        listing.write_text(f"path,label\n{name}.png,a\nimages/red/000.png,b\n")
        flags: Mapping[str, list[object]] = {
            "config": replaced(training(), "--config-file", json_file),
            "config of prefetch": ["prefetch", "--config-file", json_file],
            "table": replaced(training(), "--data-dir", table),
            "table of class-texts": ["class-texts", "--data-dir", table, "--output", "new.json"],
            "splits": [*training(), "--splits-file", json_file],
            "resume": [*training(), "--resume-from", bad[".pth"]],
            "model": ["predict", bad[".pth"], "--images", "images"],
            "export": ["predict", bad[".safetensors"], "--images", "images"],
            "explained model": ["explain", bad[".pth"], "--images", "images", "--output", "e"],
            "embedding model": ["embed", bad[".pth"], "--images", "images", "--output", "e.npz"],
            "images": ["predict", model, "--images", bad[".png"]],
            "table of images": ["predict", model, "--images", table],
            "listed image": replaced(training(), "--data-dir", f"listing {name}.csv"),
            "texts": ["predict", model, "--images", "images", "--class-texts", json_file],
            "refit images": ["refit", model, "--data-dir", table, "--executor", "inline"],
            "summary": ["summarize", bad[""]],
        }
        for what, words in flags.items():
            if name == "folder" and what in ("model", "resume"):
                continue  # allowed to be folders; this one is empty
            cases.refused(f"{what} is {name}", words)
        changes: Mapping[str, dict[str, Any]] = {
            "class_texts_file": {"class_texts_file": json_file.name},
            "test_dir": {"test_dir": table.name},
            "pretrain folder": {"pretrain": {"folder": table.name}},
            "weights_dir": {
                "image_encoder_name": "test_resnet:pretrained",
                "weights_dir": bad[".safetensors"].name,
            },
            "hf folder": {"text_encoder_name": f"hf:./{name}.json"},
        }
        for what, change in changes.items():
            Path("config.json").unlink(missing_ok=True)
            words = training(**change)
            cases.refused(f"{what} is {name}", words)
        for path in (*bad.values(), listing):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
    shutil.copy("images/red/000.png", f"images/red/{'0' * 80}.png")
    cases.refused("group_pattern", training(group_pattern="((0+)+)$"), "takes too long")
    cases.check()
