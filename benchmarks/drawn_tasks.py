"""Fold tasks with drawn durations, and the time that a large plan of them takes.

python -m benchmarks.drawn_tasks CONFIGS FOLDS      prints JSON; imports no torch
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from clip_pkg.config.schema import RunConfig
from clip_pkg.scheduling.simulation import numbered_gpus, simulate
from clip_pkg.study.identity import Identity
from clip_pkg.study.tasks import FoldTask

DEVICES = 64


def drawn_tasks(configs: int, folds: int, seed: int) -> tuple[list[FoldTask], Mapping[str, float]]:
    """Tasks of configs that differ in encoder and epochs, and how long each will take."""
    draw = random.Random(seed)
    speeds = {f"encoder{number}": draw.lognormvariate(2, 1) for number in range(6)}
    tasks, seconds = [], {}
    for number in range(configs):
        encoder, epochs = draw.choice(list(speeds)), draw.choice([20, 50, 100])
        size = draw.choice([224, 224, 384])
        name = f"config{number}"
        for fold in range(1, folds + 1):
            config = RunConfig(name=name, epochs=epochs, img_size=size, batch_size=32)
            task = FoldTask(
                identity=Identity(name, "data", "splits", "texts"),
                config=config.model_copy(update={"image_encoder_name": encoder}),
                fold=fold,
                n_folds=folds,
                run_dir=Path("run") / name,
                manifest_file=Path("manifest"),
                folds_info_file=Path("folds"),
                class_texts_file=Path("texts"),
                pixel_store=Path("pixels"),
                cache_dir=Path("cache"),
                n_images=1600,
            )
            tasks.append(task)
            seconds[task.display_name] = (
                speeds[encoder] * epochs * size**2 / 5e6 * draw.uniform(0.75, 1.25)
            )
    return tasks, seconds


def largest_memory() -> int:
    """Bytes of memory that this process had at most.

    Not `ru_maxrss`: a process inherits that of the one that started it.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kibibytes) * 1024


def main() -> None:
    """Plan and simulate as many tasks as the command line says."""
    tasks, durations = drawn_tasks(int(sys.argv[1]), int(sys.argv[2]), seed=0)
    began = time.perf_counter()
    simulation = simulate(tasks, numbered_gpus(DEVICES), lambda task: durations[task.display_name])
    measured = {
        "seconds": time.perf_counter() - began,
        "mebibytes": largest_memory() / 2**20,
        "ratio": simulation.makespan / simulation.lower_bound,
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
