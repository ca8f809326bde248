"""Ten thousand images to a million: how time grows with their number, and memory with pixels.

    bash benchmarks/run.sh scale --write

Folders of tiny bitmaps of noise (8 × 8 pixels, ten classes) go through what a run does with its
images: what the launcher does in one fresh process, what the worker of a fold does in another one.
Growth is the exponent b of seconds ∝ images^b, fitted over all sizes; 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmarks.bitmaps import make_images
from benchmarks.results import measured_on, write_section
from clip_pkg.data.cache import shown_bytes

SIZES = (10_000, 100_000, 1_000_000)
SIDE, LARGE_SIDE = 8, 64  # of the stored squares, in pixels
CHECKOUT = Path(__file__).resolve().parents[1]
PARTS = {"plan": "launcher", "fold": "worker"}

Measured: TypeAlias = Mapping[str, Mapping[str, Any]]  # by part


def measure(count: int, side: int, place: Path | None = None) -> Measured:
    """Make so many images, go through all phases, remove everything; tells on standard error."""
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir=place))
    try:
        print(f"{count:,} images, squares of {side} px", file=sys.stderr, flush=True)
        began = time.perf_counter()
        make_images(folder / "images", count, _tell)
        print(f"\r  written in {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
        return {part: _run(part, folder, side) for part in PARTS}
    finally:
        shutil.rmtree(folder)


def _tell(done: int, total: int) -> None:
    print(f"\r  written {done:,} of {total:,}", end="", file=sys.stderr, flush=True)


def _run(part: str, folder: Path, side: int) -> Mapping[str, Any]:
    words = [sys.executable, "-m", "benchmarks.scale_phases", part, str(folder), str(side)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def growth(sizes: Sequence[int], values: Sequence[float]) -> float | None:
    """Exponent b of values ∝ sizes^b by least squares; None where there is one size only."""
    if len(sizes) < 2:
        return None
    logs = [math.log(size) for size in sizes], [math.log(value) for value in values]
    return statistics.linear_regression(*logs).slope


def time_table(sizes: Sequence[int], measured: Sequence[Measured]) -> list[str]:
    """Seconds per phase and size, and how they grow."""
    rows = [
        "| phase | " + " | ".join(f"{size:,}" for size in sizes) + " | growth |",
        "|---|" + "---|" * (len(sizes) + 1),
    ]
    for part in PARTS:
        for name in measured[0][part]["seconds"]:
            seconds = [one[part]["seconds"][name] for one in measured]
            exponent = growth(sizes, seconds)
            cells = [name, *(f"{value:.2f} s" for value in seconds)]
            cells.append("–" if exponent is None else f"{exponent:.2f}")
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def memory_table(runs: Sequence[tuple[int, int, Measured]]) -> list[str]:
    """What the store takes on the disk, and the processes in memory: (images, side, measured)."""
    rows = [
        "| images | squares | store | "
        + " | ".join(f"{who}, largest | {who}, without files" for who in PARTS.values())
        + " |",
        "|---|---|---|" + "---|---|" * len(PARTS),
    ]
    for count, side, measured in runs:
        cells = [f"{count:,}", f"{side} px", shown_bytes(measured["plan"]["store"])]
        for part in PARTS:
            cells += [shown_bytes(measured[part][name]) for name in ("largest", "anonymous")]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def report(sizes: Sequence[int], place: Path | None) -> str:
    """Measure everything; returns Markdown."""
    measured = [measure(size, SIDE, place) for size in sizes]
    runs = [(size, SIDE, one) for size, one in zip(sizes, measured, strict=True)]
    runs.insert(1, (sizes[0], LARGE_SIDE, measure(sizes[0], LARGE_SIDE, place)))
    last = measured[-1]
    per_image = ", ".join(
        f"{who} {shown_bytes(last[part]['grown'] // sizes[-1])}" for part, who in PARTS.items()
    )
    return "\n".join(
        [
            "## Scale",
            "",
            measured_on(torch.device("cpu"), ("numpy", "pillow")),
            "",
            "**Time** of what is done with a set of so many images, besides training. An epoch has "
            "four fifths of them. Near copies are found by comparing all pairs, up to 300,000 "
            "distinct images; beyond, only exact ones are looked for.",
            "",
            *time_table(sizes, measured),
            "",
            "**Memory**: the largest resident set (VmHWM), and the largest part of it that no file "
            "backs (RssAnon). Pixels are read through a memory map, so they are in the first and "
            "not in the second: the system takes them back whenever it needs room. What a process "
            "itself holds grows with the number of images, because of their names and digests "
            f"(at {sizes[-1]:,} images, per image: {per_image}), and not with their pixels: the "
            f"second row has squares of {LARGE_SIDE} px, and differs by a few batches.",
            "",
            *memory_table(runs),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of images")
    parser.add_argument("--place", type=Path, help="folder to work in (default: the system's)")
    parser.add_argument("--write", action="store_true", help="replace the section of RESULTS.md")
    parsed = parser.parse_args(arguments)
    text = report(sorted(parsed.sizes), parsed.place)
    if parsed.write:
        write_section("scale", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
