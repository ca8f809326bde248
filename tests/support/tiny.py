"""Small real things to test with: image folders, configs, and the program as a user starts it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CHECKOUT = Path(__file__).resolve().parents[2]
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


def program_environment() -> dict[str, str]:
    """Environment of a child: no GPU, one thread, plain output."""
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(CHECKOUT),
        "COLUMNS": "160",
        "HF_HUB_OFFLINE": "1",
    }


def command(*arguments: str | Path) -> Sequence[str]:
    """The program with arguments, for subprocess."""
    return [sys.executable, str(CHECKOUT / "train_clip.py"), *map(str, arguments)]


def one_core() -> set[int]:
    """A core for programs that are to compute in one thread; test processes have one each."""
    cores = sorted(os.sched_getaffinity(0))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return {cores[int(worker) % len(cores)]}


@contextlib.contextmanager
def half_the_cores() -> Iterator[None]:
    """Compute in half as many threads meanwhile; sums of other numbers of threads differ."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: max(1, len(cores) // 2)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
