"""How many altered copies of images are found, and which other pairs are taken for copies.

    bash benchmarks/run.sh copies --write --images DIR

Every image of a folder is altered in one way after the other; each time, the images and their
altered copies are searched together. Without `--images`, images that resemble X-rays are drawn.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from benchmarks.image_sets import draw_radiograph
from benchmarks.results import measured_on, write_section
from clip_pkg.study.duplicates import altered_clusters, find_duplicates
from clip_pkg.study.inspection import Inspection, inspect_file

DRAWN = 200
TIMED = 100_000

Change = Callable[[Image.Image], Image.Image]


def _jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=30)
    return Image.open(stream)


def _levels(function: Callable[[float], float]) -> Change:
    """Replace each level, in 0..1."""
    table = [min(255, round(255 * function(level / 255))) for level in range(256)]
    return lambda image: image.point(table)


def _frame(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, round(0.05 * image.width), 255)


def _painted_edge(image: Image.Image) -> Image.Image:
    edge = round(0.05 * image.width)
    return ImageOps.expand(ImageOps.crop(image, edge), edge, 255)


def _label(image: Image.Image) -> Image.Image:
    """A bright box of a quarter of the width with dark text, in the upper left corner."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    width, height = image.size
    draw.rectangle((0.02 * width, 0.02 * height, 0.27 * width, 0.12 * height), fill=235)
    draw.text((0.04 * width, 0.03 * height), "L 2021-04-03", fill=0)
    return image


def _turned(degrees: float) -> Change:
    return lambda image: image.rotate(degrees, Image.Resampling.BICUBIC)


def _cropped(share: float) -> Change:
    def crop(image: Image.Image) -> Image.Image:
        x, y = round(image.width * share / 2), round(image.height * share / 2)
        return image.crop((x, y, image.width - x, image.height - y))

    return crop


# Changes of which nearly all copies are found.
FOUND: Mapping[str, Change] = MappingProxyType(
    {
        "JPEG, quality 30": _jpeg,
        "half size": lambda image: image.resize((image.width // 2, image.height // 2)),
        "mirrored": ImageOps.mirror,
        "upside down": ImageOps.flip,
        "inverted": ImageOps.invert,
        "white frame of 5 %": _frame,
        "edge of 5 % painted white": _painted_edge,
        "brightness × 0.7": _levels(lambda level: 0.7 * level),
        "brightness × 1.5": _levels(lambda level: 1.5 * level),
        "gamma 0.7": _levels(lambda level: level**0.7),
        "gamma 1.5": _levels(lambda level: level**1.5),
        "label in a corner": _label,
        "turned by 90°": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    }
)
CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        **FOUND,
        **{f"turned by {degrees}°": _turned(degrees) for degrees in (1, 2, 5, 10)},
        **{f"width and height cropped by {100 * s:.0f} %": _cropped(s) for s in (0.05, 0.1, 0.2)},
    }
)


def inspected(images: Sequence[Image.Image]) -> list[Inspection]:
    """Inspect images as files."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.png"
        found = []
        for image in images:
            image.save(file, compress_level=1)
            found.append(inspect_file(file))
        return found


def copies_found(originals: Sequence[Inspection], copies: Sequence[Inspection]) -> int:
    """Number of originals that share a cluster with their copy."""
    count = len(originals)
    labels = np.zeros(2 * count, dtype=np.int64)
    clusters = find_duplicates([*originals, *copies], labels).linked
    return sum(
        place + count in cluster for cluster in clusters for place in cluster if place < count
    )


def report(folder: Path | None, timed: int) -> str:
    """The section of RESULTS.md."""
    if folder is None:
        images = [draw_radiograph(number % 6, number) for number in range(DRAWN)]
        described = f"{len(images)} drawn images"
    else:
        files = sorted(file for file in folder.glob("*/*") if file.is_file())
        images = [Image.open(file).convert("L") for file in files]
        described = f"{len(images)} images of the folder `{folder.name}`"
    originals = inspected(images)
    labels = np.zeros(len(originals), dtype=np.int64)
    pairs = find_duplicates(originals, labels).linked
    rows = [
        f"| {name} | {copies_found(originals, inspected([change(one) for one in images]))} |"
        for name, change in CHANGES.items()
    ]
    noise = np.random.default_rng(0).integers(0, 256, (timed, 32, 32), dtype=np.uint8)
    model = originals[0]
    many = [
        Inspection("", b"", one, None, "PNG", "L", 32, 32, model.frames, None, blank=False)
        for one in noise
    ]
    began = time.perf_counter()
    false = len(altered_clusters(many))
    seconds = time.perf_counter() - began
    return "\n".join(
        [
            "## Altered copies",
            "",
            measured_on(torch.device("cpu"), ("numpy", "pillow")),
            "",
            f"Each of {described} beside an altered copy of itself. Without copies, "
            f"{len(pairs)} clusters of {sum(map(len, pairs))} images are found among them.",
            "",
            f"| change | copies found of {len(images)} |",
            "|---|--:|",
            *rows,
            "",
            f"The search for altered copies takes {seconds:.0f} s for {timed:,} images of noise, "
            f"among which it finds {false}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=Path, help="a folder per class (default: drawn images)")
    parser.add_argument("--timed", type=int, default=TIMED, help="images of noise to time")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    parsed = parser.parse_args(arguments)
    section = report(parsed.images, parsed.timed)
    if parsed.write:
        write_section("copies", section)
    else:
        print(section)


if __name__ == "__main__":
    main()
