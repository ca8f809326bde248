"""Small real things to test with: image folders, configs, and the program as a user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = CHECKOUT.parent / "shared"
# The smallest encoders that timm and this package have; they train in milliseconds per step.
TINY = {
    "image_encoder_name": "test_resnet:scratch",
    "text_encoder_name": "prompts",
    "img_size": 32,
    "embed_dim": 16,
    "batch_size": 8,
    "epochs": 2,
    "learning_rate": 1e-3,
    "n_splits": 2,
    "augmentation": "minimal",
    "num_workers": 0,
}

Program = Callable[..., "subprocess.CompletedProcess[str]"]


def paint(path: Path, label: int, seed: int, side: int = 24) -> None:
    """Write a picture whose stripes tell its class; no two pictures are alike."""
    random = np.random.default_rng((label, seed))
    pixels = random.integers(0, 80, (side, side, 3))
    pixels[:, :: label + 2] += 120
    pixels[..., label % 3] += 50
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_folder(root: Path, counts: Mapping[str, int]) -> Path:
    """Make a folder per class with so many pictures."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            paint(root / name / f"{number:03d}.png", label, number)
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures in 3 unequal classes."""
    return make_folder(tmp_path_factory.mktemp("images"), {"red": 14, "grün": 10, "blue sky": 6})


@pytest.fixture
def write_configs(tmp_path: Path) -> Callable[..., Path]:
    """Write a config list made of `TINY` with changes."""

    def write(*changes: Mapping[str, Any], name: str = "configs.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps([{**TINY, **change} for change in changes]), encoding="utf-8")
        return path

    return write


def program_environment() -> dict[str, str]:
    """Environment of a child: no GPU, one thread, plain output."""
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(CHECKOUT),
        "COLUMNS": "160",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Run `train_clip.py` in an empty working directory."""

    def run(*arguments: str | Path, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=program_environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if check is not None:
            assert done.returncode == check, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def command(*arguments: str | Path) -> Sequence[str]:
    """The program with arguments, for subprocess."""
    return [sys.executable, str(CHECKOUT / "train_clip.py"), *map(str, arguments)]
