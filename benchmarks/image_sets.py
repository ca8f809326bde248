"""Images to train on: some of a user's folder, or drawn ones; with one division for all sides.

Drawn images are grey JPEG files of 500 to 1,000 pixels a side, as X-rays come out of an archive:
soft shadows, grain, and a bright rod whose angle tells the class.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clip_pkg.study.scan import scan

PARTS = 5  # one of them validates; every class has at least as many images
SHARES = (0.34, 0.22, 0.16, 0.12, 0.09, 0.07)  # of the drawn classes
SIDES = (500, 1001)  # pixels, of drawn images


@dataclass(frozen=True)
class ImageSet:
    """A folder with a sub-folder per class, and one division of it.

    divided: the same files as `train/<class>/…` and `val/<class>/…`. splits_file: the division as
    `train_clip.py --splits-file` reads it. n_train, n_val: images of its sides.
    """

    folder: Path
    divided: Path
    splits_file: Path
    described: str
    n_train: int
    n_val: int
    majority: float

    @property
    def size(self) -> int:
        """Number of images."""
        return self.n_train + self.n_val


def make_image_set(
    given: Path | None, count: int, target: Path, *, train_multiple: int = 1
) -> ImageSet:
    """Copy about `count` images of a folder to `target`, or draw them.

    Args:
        given: folder with a sub-folder per class; None draws.
        count: how many, spread over the classes as they are in the folder, at least 5 of each.
        target: folder to make.
        train_multiple: images are left out until the training side is a multiple of this, so that
            all who drop an incomplete batch see the same images.
    """
    chosen = _drawn(count, target / "drawn") if given is None else _chosen(given, count)
    sides: dict[str, list[tuple[str, Path]]] = {"train": [], "val": []}
    for name, files in chosen.items():
        for number, file in enumerate(files):
            sides["val" if number % PARTS == PARTS - 1 else "train"].append((name, file))
    surplus = len(sides["train"]) % train_multiple
    assert surplus < len(sides["train"]), "fewer training images than one batch"
    # Other classes may be too small to spare any.
    largest = max(chosen, key=lambda name: len(chosen[name]))
    spare = [entry for entry in sides["train"] if entry[0] == largest][:surplus]
    sides["train"] = [entry for entry in sides["train"] if entry not in spare]
    validating = []
    for side, entries in sides.items():
        for number, (name, file) in enumerate(entries):
            path = f"{name}/{side}_{number:05d}{file.suffix}"
            for folder in (target / "images", target / "divided" / side):
                (folder / name).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / path)
            if side == "val":
                validating.append(path)
    splits_file = target / "splits.json"
    splits_file.write_text(json.dumps({"folds": [{"val": validating}]}), encoding="utf-8")
    total = len(sides["train"]) + len(sides["val"])
    counts = Counter(name for name, _ in sides["val"])
    return ImageSet(
        target / "images",
        target / "divided",
        splits_file,
        _described(given, [file for entries in sides.values() for _, file in entries], total),
        n_train=len(sides["train"]),
        n_val=len(sides["val"]),
        majority=100 * max(counts.values()) / len(sides["val"]),
    )


def _chosen(folder: Path, count: int) -> dict[str, list[Path]]:
    """Evenly spaced files of each class; of copies, which must not be on both sides, one."""
    scanned = scan(folder)
    copies = {index for cluster in scanned.linked for index in cluster[1:]}
    manifest = scanned.manifest
    by_class: dict[str, list[Path]] = {}
    for index, label in enumerate(manifest.labels):
        if index not in copies:
            by_class.setdefault(manifest.classes[label], []).append(manifest.file(index))
    share = min(1.0, count / sum(map(len, by_class.values())))
    return {
        name: [files[int(at)] for at in np.linspace(0, len(files) - 1, _wanted(len(files), share))]
        for name, files in by_class.items()
    }


def _wanted(there: int, share: float) -> int:
    return min(there, max(PARTS, round(share * there)))


def _drawn(count: int, folder: Path) -> dict[str, list[Path]]:
    by_class: dict[str, list[Path]] = {}
    for label, share in enumerate(SHARES):
        files = [folder / f"{label}_{n:05d}.jpg" for n in range(max(PARTS, round(share * count)))]
        folder.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(files):
            draw_radiograph(label, number).save(file, quality=90)
        by_class[f"finding {label + 1}"] = files
    return by_class


def draw_radiograph(label: int, number: int) -> Image.Image:
    """Draw one grey image of class `label` in 0…5; no two are alike."""
    random = np.random.default_rng((label, number))
    width, height = (int(side) for side in random.integers(*SIDES, 2))
    shadows = Image.fromarray(random.integers(20, 150, (7, 7)).astype(np.uint8))
    levels = np.asarray(shadows.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    x = np.arange(width, dtype=np.float32) - width * random.uniform(0.4, 0.6)
    y = np.arange(height, dtype=np.float32)[:, None] - height * random.uniform(0.4, 0.6)
    angle = np.pi * (label + random.uniform(-0.25, 0.25)) / len(SHARES)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = x * np.float32(np.sin(angle)) - y * np.float32(np.cos(angle))
    rod = (np.abs(across) < 0.04 * width) & (np.abs(along) < 0.35 * height)
    grain = random.standard_normal((height, width), np.float32) * 6
    return Image.fromarray((levels + 90 * rod + grain).clip(0, 255).astype(np.uint8))


def _described(given: Path | None, files: Sequence[Path], total: int) -> str:
    sides = []
    for file in files:
        with Image.open(file) as image:
            sides.append(max(image.size))
    kind = "drawn grey JPEG images" if given is None else f"images of the folder `{given.name}`"
    return f"{total:,} {kind}, {min(sides)} to {max(sides)} pixels at their longer side"
