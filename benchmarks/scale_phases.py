"""What a run does with an image set before and beside training, phase by phase, in this process.

python -m benchmarks.scale_phases plan FOLDER SIZE     what the launcher does; imports no torch
python -m benchmarks.scale_phases fold FOLDER SIZE     what the worker of a fold does

FOLDER holds `images`; what is made of them goes beside. SIZE: side of the stored squares. Prints
JSON: seconds of each phase, memory; tells on standard error which phase it is in.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bitmaps import make_images
from benchmarks.drawn_tasks import largest_memory
from clip_pkg.base.cores import usable_cores
from clip_pkg.base.files import write_json
from clip_pkg.data.image_decoder import ImageDecoder
from clip_pkg.data.pixel_store import PixelStore, build_store, store_path
from clip_pkg.study.folds_info import splits_from_json, splits_to_json
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.scan import scan
from clip_pkg.study.splits import make_splits

FOLDS, BATCH, WARM_UP = 5, 256, 200
SECONDS_BETWEEN_LOOKS = 0.02


def anonymous_memory() -> int:
    """Bytes of memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(kibibytes) * 1024


@dataclass
class Phases:
    """Seconds of phases, and the largest anonymous memory meanwhile."""

    seconds: dict[str, float] = field(default_factory=dict)
    at_first: int = field(default_factory=anonymous_memory)
    most: int = 0

    def __post_init__(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        print(f"  {name} …", end="", file=sys.stderr, flush=True)
        began = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Note a phase that was measured otherwise."""
        self.seconds[name] = seconds
        self.most = max(self.most, anonymous_memory())
        print(f"\r  {name}: {seconds:.1f} s", file=sys.stderr, flush=True)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; memory in bytes."""
        return {
            "seconds": self.seconds,
            "anonymous": self.most,
            "grown": self.most - self.at_first,
            "largest": largest_memory(),
        }

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, anonymous_memory())
            time.sleep(SECONDS_BETWEEN_LOOKS)


def plan(folder: Path, size: int, phases: Phases) -> dict[str, Any]:
    """Scan, split, write what folds read, build the store."""
    began = time.perf_counter()
    looked = began

    def progress(done: int, total: int) -> None:
        nonlocal looked
        if done % 10_000 == 0:
            print(f"\r  looked at {done:,} of {total:,}", end="", file=sys.stderr, flush=True)
        if done == total:
            looked = time.perf_counter()

    scanned = scan(folder / "images", progress=progress)
    ended = time.perf_counter()
    phases.add("list and look into every file", looked - began)
    phases.add("find copies, audit", ended - looked)
    manifest = scanned.manifest
    with phases.phase("fingerprint"):
        assert manifest.fingerprint
    with phases.phase(f"{FOLDS} folds"):
        splits = make_splits(
            manifest,
            use_cv=True,
            n_splits=FOLDS,
            random_state=0,
            val_fraction=0.2,
            linked=scanned.linked,
        )
    with phases.phase("write lists of images and folds"):
        write_json(folder / "folds.json", splits_to_json(splits, manifest))
        write_json(folder / "manifest.json", manifest.to_json())
    with phases.phase("build the store"):
        store = build_store(manifest, size, folder / "cache", workers=usable_cores())
    with phases.phase("check a store that is there"):
        build_store(manifest, size, folder / "cache")
    return {"store": store.stat().st_size}


def fold(folder: Path, size: int, phases: Phases) -> dict[str, Any]:
    """Read the lists, then draw one epoch of batches from the store and one without it."""
    import torch  # noqa: PLC0415 - not for the launcher's part

    from clip_pkg.data.augmentation import Augmentation  # noqa: PLC0415
    from clip_pkg.data.batches import TrainBatches  # noqa: PLC0415
    from clip_pkg.data.pixel_sources import HostImages, open_pixels  # noqa: PLC0415

    with phases.phase("read lists of images and folds"):
        content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifest = Manifest.from_json(content)
        del content
        splits = splits_from_json(folder / "folds.json", manifest)

    def epoch(images: HostImages) -> None:
        augmentation = Augmentation("minimal", img_size=size, mean=(0.5,) * 3, std=(0.5,) * 3)
        batches = TrainBatches(
            open_pixels(images, torch.device("cpu")),
            manifest.labels,
            splits.folds[0].train,
            batch_size=BATCH,
            augmentation=augmentation,
            seed=0,
            fold=1,
        )
        for _ in batches.epoch(1):
            pass

    with phases.phase("open the store"):
        store = PixelStore.open(store_path(manifest, size, folder / "cache"), manifest)
    with closing(store), phases.phase("an epoch of batches"):
        epoch(store)
    decoder = ImageDecoder(manifest, size, workers=usable_cores())
    with closing(decoder), phases.phase("the same without a store"):
        epoch(decoder)
    return {}


def main() -> None:
    """Carry out one part, after a small set on which everything is loaded and warmed up."""
    parts = {"plan": plan, "fold": fold}
    part, folder, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as small, Path(os.devnull).open("w") as quiet:
        loud, sys.stderr = sys.stderr, quiet
        make_images(Path(small) / "images", WARM_UP, lambda done, total: None)
        for name in ("plan", "fold")[: 1 + (part == "fold")]:
            parts[name](Path(small), size, Phases())
        sys.stderr = loud
    phases = Phases()
    told = parts[part](folder, size, phases)
    print(json.dumps({**phases.to_json(), **told}))


if __name__ == "__main__":
    main()
