from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_pkg.study.manifest import Manifest

MakeImages = Callable[..., Manifest]


def manifest_of(folder: Path) -> Manifest:
    """Describe a folder per class, without the checks of a scan."""
    files = sorted(folder.glob("*/*"), key=lambda file: file.relative_to(folder).as_posix())
    classes = tuple(sorted({file.parent.name for file in files}))
    return Manifest(
        data_dir=folder,
        classes=classes,
        paths=tuple(file.relative_to(folder).as_posix() for file in files),
        labels=np.array([classes.index(file.parent.name) for file in files], dtype=np.int64),
        groups=None,
        digests=tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files),
    )


@pytest.fixture
def make_images(tmp_path: Path) -> MakeImages:
    """Write noise images of changing sizes: `make_images({"a": 5, "b": 3})`."""

    def make(counts: dict[str, int], name: str = "images", seed: int = 0) -> Manifest:
        rng = np.random.default_rng(seed)
        folder = tmp_path / name
        for label, count in counts.items():
            (folder / label).mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(8, 40, size=2)
                pixels = rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
                suffix = ("png", "jpg", "bmp")[number % 3]
                Image.fromarray(pixels).save(folder / label / f"{number:03d}.{suffix}")
        return manifest_of(folder)

    return make
