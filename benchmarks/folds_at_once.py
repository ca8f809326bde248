"""Several folds of a small model at once on one device: the ways to do it, measured.

    bash benchmarks/run.sh folds_at_once --write [--device cuda]

Each way trains the same folds in processes of its own (`fold_team.py`), which wait while another
way is measured. A round lets each of them train all folds for a few steps, and the ratio to one
fold after another is taken within each round. Then all ways train anew in float64, and losses and
running statistics of every fold must be those of one fold after another.

At last the whole program runs with `--folds-at-once` on the demo images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.fold_team import precision_of
from benchmarks.fold_ways import BATCH, CHECKOUT, ENCODER, ONE_BY_ONE, Measured, compare
from benchmarks.measurement import spread
from benchmarks.results import measured_on, write_section
from benchmarks.utilisation import Utilisation
from clip_pkg.base.cores import usable_cores
from clip_pkg.scheduling.devices import Device, child_environment, find_devices, mps_is_running
from clip_pkg.study.demo import make_demo

SIZES = {"cpu": (32, 64), "cuda": (32, 64, 224)}
STEPS = {"cpu": 2, "cuda": 20}
MIB = 1 << 20
CONFIG = {
    "name": "small",
    "image_encoder_name": f"{ENCODER}:scratch",
    "text_encoder_name": "prompts",
    "augmentation": "none",
    "img_size": 32,
    "batch_size": BATCH,
    "n_splits": 5,
}


def table(measured: Mapping[str, Measured]) -> list[str]:
    """Rows of one size, as they were measured."""
    rows = [
        "| | ms per fold and step | ÷ one after another | MiB | n |",
        "|---|--:|--:|--:|--:|",
    ]
    base = measured[ONE_BY_ONE]
    for name, one in measured.items():
        if one.problem:
            rows.append(f"| {name} | not run: {one.problem} | | | |")
            continue
        ratios = [mine / theirs for mine, theirs in zip(one.seconds, base.seconds, strict=True)]
        time_, ratio = spread(one.seconds), spread(ratios)
        rows.append(
            f"| {name} | {1000 * time_.median:.1f} | **{ratio.median:.2f}** "
            f"({ratio.low:.2f}–{ratio.high:.2f}) | {one.memory / MIB:.0f} | {len(ratios)} |"
        )
    return rows


def fastest(measured: Mapping[str, Measured]) -> str:
    """The way with the smallest median time."""
    ran = {name: one for name, one in measured.items() if not one.problem}
    return min(ran, key=lambda name: spread(ran[name].seconds).median)


def whole_runs(
    device: Device, at_once: Sequence[int], epochs: int
) -> dict[int, tuple[float, Utilisation]]:
    """Seconds from start to end of the program and the GPU's work, for numbers of folds at once."""
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_demo(root / "images")
        config = root / "configs.json"
        config.write_text(json.dumps([{**CONFIG, "epochs": epochs}]), encoding="utf-8")
        where = ["--data-dir", root / "images", "--config-file", config, "--log-dir", root / "logs"]
        environment = child_environment([device], os.environ) | {"PYTHONPATH": str(CHECKOUT)}
        for number in at_once:
            words = [*where, "--output-dir", root / f"out{number}", "--folds-at-once", number]
            utilisation = Utilisation(device.visible or None)
            began = time.perf_counter()
            with utilisation.sampled():
                subprocess.run(
                    [sys.executable, CHECKOUT / "train_clip.py", *map(str, words)],
                    check=True,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                )
            measured[number] = time.perf_counter() - began, utilisation
    return measured


def steps_report(device: Device, parsed: argparse.Namespace) -> list[str]:
    """Measure steps at all sizes; returns lines of Markdown."""
    kind = parsed.device
    steps = parsed.steps or STEPS[kind]
    lines, winners = [], []
    for size in parsed.sizes or SIZES[kind]:
        found, worst = compare(size, parsed.folds, device, rounds=parsed.rounds, steps=steps)
        winners.append(f"{fastest(found)} at {size} px")
        lines += ["", f"### {ENCODER}, {size} px, {parsed.folds} folds", "", *table(found), ""]
        lines.append(
            f"In float64 all ways had the same losses and running statistics (within {worst:.0e})."
        )
    service = ""
    if device.is_gpu:
        state = "was" if mps_is_running(os.environ) else "was not"
        service = f"NVIDIA's Multi-Process Service {state} running."
    precision = ", ".join(
        f"{precision_of(ENCODER, size, torch.device(kind))} at {size} px"
        for size in parsed.sizes or SIZES[kind]
    )
    memory = (
        "what the GPU gave out to its processes"
        if device.is_gpu
        else "largest resident size of its processes, each with the libraries"
    )
    return [
        f"Forward, backward and AdamW, {precision}, batch {BATCH}, images on the device. Median of "
        f"n interleaved rounds of {steps} steps of every fold; in brackets the quartiles of the "
        f"ratio. One fold after another and the fused program have all {usable_cores()} cores, "
        f"processes and threads share them. MiB: {memory}. {service}".rstrip(),
        *lines,
        "",
        f"**Fastest here**: {', '.join(winners)}. Another machine can decide otherwise, above all "
        "between a CPU, whose cores are shared, and a GPU, which small models leave idle.",
        "",
        "`--folds-at-once` starts processes: each fold stays the "
        "program that it is alone, with its own numbers, log and failure, beside folds of other "
        "configs, and one that stops early makes room. A fused program has none of this; where it "
        "is faster, this is what it would gain.",
    ]


def whole_report(device: Device, parsed: argparse.Namespace) -> list[str]:
    """Measure the whole program; returns lines of Markdown."""
    whole = whole_runs(device, parsed.at_once, parsed.epochs)
    first = parsed.at_once[0]
    return [
        f"**The whole program**, `--folds-at-once N` for {CONFIG['n_splits']} folds of "
        f"{parsed.epochs} epochs ({ENCODER}, {CONFIG['img_size']} px, demo images), one run each:",
        "",
        f"| N | seconds | ÷ N = {first} | GPU utilisation |",
        "|--:|--:|--:|---|",
        *(
            f"| {n} | {seconds:.1f} | {seconds / whole[first][0]:.2f} | {utilisation} |"
            for n, (seconds, utilisation) in whole.items()
        ),
    ]


def report(parsed: argparse.Namespace) -> str:
    """Measure everything; returns Markdown."""
    kind = parsed.device
    device = find_devices(None)[0][0] if kind == "cuda" else Device("cpu", "", "CPU")
    if kind == "cuda" and not device.is_gpu:
        raise SystemExit("--device cuda: there is no NVIDIA GPU")
    steps, whole = steps_report(device, parsed), whole_report(device, parsed)
    facts = measured_on(torch.device(kind), ["timm"])
    return "\n".join([f"## Folds at once on {kind}", "", facts, "", *steps, "", *whole])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--folds", type=int, default=5, help="that are trained at once")
    parser.add_argument(
        "--sizes", type=int, nargs="+", help="pixels (default: 32 64; cuda: 224 too)"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, help="of each fold in a round (default: 2; cuda: 20)")
    parser.add_argument(
        "--at-once", type=int, nargs="+", default=[1, 2, 5], help="of the whole program, 1 first"
    )
    parser.add_argument("--epochs", type=int, default=2, help="of the whole program")
    parser.add_argument("--write", action="store_true", help="replace the section of RESULTS.md")
    parsed = parser.parse_args(arguments)
    text = report(parsed)
    if parsed.write:
        write_section(f"folds-at-once-{parsed.device}", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
