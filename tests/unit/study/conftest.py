from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[4] / "shared"


@pytest.fixture
def noise() -> Callable[[int], Image.Image]:
    """Images that resemble no other one, by number."""

    def make(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
        levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
        return Image.fromarray(levels.astype(np.uint8))

    return make


@pytest.fixture
def image_set(tmp_path: Path, noise: Callable[[int], Image.Image]) -> Callable[..., Path]:
    """Write a folder per class with so many images each; returns the data folder."""

    def make(counts: Mapping[str, int], name: str = "data", first_seed: int = 0) -> Path:
        root, seed = tmp_path / name, first_seed
        for label, count in counts.items():
            (root / label).mkdir(parents=True)
            for number in range(count):
                noise(seed).save(root / label / f"{number:03}.png")
                seed += 1
        return root

    return make


@pytest.fixture(scope="session")
def hip_xrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """206 hip X-rays of two classes."""
    archive = SHARED / "data" / "hip_loosening.zip"
    if not archive.exists():
        pytest.skip("the hip X-rays are not beside this checkout")
    root = tmp_path_factory.mktemp("hip")
    with zipfile.ZipFile(archive) as content:
        content.extractall(root)
    return root
