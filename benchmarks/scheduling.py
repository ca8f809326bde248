"""The scheduler: how near its order is to the best one, what it costs, how fast folds follow.

    bash benchmarks/run.sh scheduling --write

Simulations run the real loop against drawn durations (an encoder's speed log-normal, folds of a
config within ±25 %), which the scheduler sees only when a task ends. The start of a second fold is
measured on real workers: from the end of one fold to the first training step of the next, in the
worker that lives on, and in a fresh process as a scheduler without one would start.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.drawn_tasks import drawn_tasks
from benchmarks.results import measured_on, median_and_range, write_section
from clip_pkg.scheduling.queue import Estimates
from clip_pkg.scheduling.simulation import numbered_gpus, simulate
from clip_pkg.study.demo import make_demo

CONFIG = {
    "name": "small",
    "image_encoder_name": "resnet10t:scratch",
    "text_encoder_name": "clip:ViT-S-32-alt:scratch",
    "img_size": 32,
    "batch_size": 32,
    "epochs": 1,
    "n_splits": 4,
}
CHECKOUT = Path(__file__).resolve().parents[1]


def makespans(repetitions: int) -> tuple[list[float], list[float]]:
    """100 tasks on 4 devices, again and again with other durations: makespans ÷ lower bounds.

    First with nothing known beforehand, then with the durations that the first run recorded.
    """
    unknown, recorded = [], []
    for seed in range(repetitions):
        tasks, seconds = drawn_tasks(20, 5, seed)
        estimates = Estimates()
        for ratios in (unknown, recorded):
            result = simulate(
                tasks,
                numbered_gpus(4),
                lambda task, s=seconds: s[task.display_name],
                estimates=estimates,
            )
            ratios.append(result.makespan / result.lower_bound)
    return unknown, recorded


def large_plan(configs: int, folds: int) -> dict[str, float]:
    """10,000 tasks on 64 devices, in a process of its own that has no torch."""
    words = [sys.executable, "-m", "benchmarks.drawn_tasks", str(configs), str(folds)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=CHECKOUT)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def fold_starts(rounds: int) -> tuple[list[float], list[float]]:
    """Seconds to the first step of a following fold: in a living worker, in a fresh process."""
    living, fresh = [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_demo(root / "images")
        (root / "configs.json").write_text(json.dumps([CONFIG]), encoding="utf-8")
        for number in range(rounds):
            output = root / f"out{number}"
            where = ["--data-dir", root / "images", "--output-dir", output]
            what = ["--config-file", root / "configs.json", "--log-dir", root / "logs"]
            _run([CHECKOUT / "train_clip.py", *where, *what])
            run = output / "small"
            for fold in range(2, int(str(CONFIG["n_splits"])) + 1):
                ended = (run / f"fold_{fold - 1}/result.json").stat().st_mtime
                living.append(_first_step(run, fold) - ended)
            (run / "fold_2/result.json").unlink()
            (run / "fold_2/checkpoint_latest.pth").unlink()
            began = time.time()
            _run(["-m", "clip_pkg.training.worker", run / "fold_2/task.json"])
            fresh.append(_first_step(run, 2) - began)
    return living, fresh


def _run(words: Sequence[str | Path]) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(CHECKOUT)}
    subprocess.run(
        [sys.executable, *map(str, words)],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )


def _first_step(run: Path, fold: int) -> float:
    """When the first training step of a fold ended, in seconds since the epoch."""
    events = EventAccumulator(str(run / f"tensorboard/fold_{fold}/steps"))
    events.Reload()
    return float(events.Scalars("Loss/Total")[0].wall_time)


def report(repetitions: int, rounds: int) -> str:
    """Measure everything; returns Markdown."""
    unknown, recorded = makespans(repetitions)
    rows = []
    for configs, folds in ((2_000, 5), (10_000, 1)):
        plan = large_plan(configs, folds)
        measured = f"{plan['seconds']:.1f} s | {plan['mebibytes']:.0f} MiB | {plan['ratio']:.4f}"
        rows.append(f"| {configs:,} × {folds} | {measured} |")
    living, fresh = fold_starts(rounds)
    return "\n".join(
        [
            "## Scheduling",
            "",
            measured_on(torch.device("cpu"), ()),
            "",
            f"**Makespan** of 100 tasks on 4 devices, as a multiple of what no order could beat, "
            f"{repetitions} draws of durations: with recorded durations median "
            f"{statistics.median(recorded):.4f}, worst {max(recorded):.4f}; when nothing is known "
            f"before the first fold ends, median {statistics.median(unknown):.4f}, worst "
            f"{max(unknown):.4f}.",
            "",
            "**10,000 tasks on 64 devices**, planned and simulated:",
            "",
            "| configs × folds | time | largest memory | makespan ÷ bound |",
            "|---|---|---|---|",
            *rows,
            "",
            "**Start of the next fold** on a device, from the end of the one before to the end of "
            "its first training step (resnet10t, ViT-S-32-alt texts, batch 32), median and range:",
            "",
            "| | seconds | folds |",
            "|---|---|---|",
            f"| a worker that lives on | {median_and_range(living)} | {len(living)} |",
            f"| a fresh process | {median_and_range(fresh)} | {len(fresh)} |",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=200, help="draws of durations")
    parser.add_argument("--rounds", type=int, default=3, help="runs with real workers")
    parser.add_argument("--write", action="store_true", help="replace the section of RESULTS.md")
    parsed = parser.parse_args(arguments)
    text = report(parsed.repetitions, parsed.rounds)
    if parsed.write:
        write_section("scheduling", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
