"""`plan`: what a run would do, and how long it would take on how many GPUs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from clip_pkg.base.paths import RunPaths
from clip_pkg.cli.sharing_flags import folds_per_device
from clip_pkg.config.load import LoadedConfigs
from clip_pkg.launch.preparation import prepare
from clip_pkg.launch.probe import NoProbe
from clip_pkg.launch.run_folder import fold_tasks, pretraining_tasks
from clip_pkg.launch.terminal import Terminal, duration
from clip_pkg.scheduling.queue import Estimates
from clip_pkg.scheduling.simulation import Simulation, numbered_gpus, simulate
from clip_pkg.study.tasks import (
    FoldResult,
    Task,
    finished,
    nouns,
    read_record,
    read_task,
    unfinished,
)

GPU_COUNTS = (1, 2, 4, 8)


def plan(parsed: argparse.Namespace, loaded: LoadedConfigs) -> int:
    """Print the tasks, what is done, and simulated durations; writes nothing."""
    terminal = Terminal()
    share = folds_per_device(parsed)
    assert isinstance(share, int), "auto is measured, which a plan does not do"
    # Encoders are not looked at: a plan needs no weights, and takes no seconds for torch.
    preparation = prepare(parsed, loaded, NoProbe(), terminal)
    run = RunPaths(parsed.output_dir.resolve())
    tasks = [
        *pretraining_tasks(parsed, run, preparation),
        *fold_tasks(parsed, run, preparation),
    ]
    waiting = unfinished(tasks)
    estimates = learned(run)
    terminal.console.print(_task_table(tasks, estimates))
    terminal.line(f"{len(tasks) - len(waiting)} of {len(tasks)} {nouns(tasks)} are done.")
    if not waiting:
        return 0
    if not estimates.knows_anything:
        terminal.line(
            f"Nothing is known about durations: no fold has finished in {run.output_dir}. What "
            "follows compares numbers of GPUs; the times themselves are a guess.",
            "yellow",
        )
    counts = (parsed.simulate,) if parsed.simulate else GPU_COUNTS
    simulations = [
        simulate(
            waiting,
            numbered_gpus(count),
            estimates.seconds,
            jobs_per_device=share,
            estimates=learned(run),
        )
        for count in counts
    ]
    terminal.console.print(_time_table(counts, simulations))
    return 0


def learned(run: RunPaths) -> Estimates:
    """Estimates from every fold that ever finished in an output folder."""
    estimates = Estimates()
    places = ("*/fold_*/result.json", f"{run.pretraining.name}/*/result.json")
    for path in sorted(path for place in places for path in run.output_dir.glob(place)):
        task = read_task(path.with_name("task.json"))
        result = read_record(FoldResult, path)
        if task is not None and result is not None:
            estimates.learn(task, result.seconds)
    return estimates


def _task_table(tasks: Sequence[Task], estimates: Estimates) -> Table:
    by_config: dict[Path, list[Task]] = {}
    for task in tasks:
        by_config.setdefault(task.run_dir, []).append(task)
    table = Table(title="Tasks", title_justify="left")
    table.add_column("Config", overflow="fold", min_width=12)
    for name in ("Folds", "Done", "GPUs", "Pinned to", "One fold", "Left"):
        table.add_column(name, justify="right")
    for run_dir, mine in by_config.items():
        done = sum(1 for task in mine if finished(task) is not None)
        seconds = estimates.seconds(mine[0])
        pin = mine[0].config.gpu_id
        table.add_row(
            Text(run_dir.name),
            str(len(mine)),
            str(done),
            str(mine[0].gpus),
            "" if pin is None else str(pin),
            duration(seconds) if estimates.knows_anything else "?",
            duration(seconds * (len(mine) - done)) if estimates.knows_anything else "?",
        )
    return table


def _time_table(counts: Sequence[int], simulations: Sequence[Simulation]) -> Table:
    table = Table(title="Simulated with the real scheduler", title_justify="left")
    for name in ("GPUs", "Takes", "Busy", "No order could beat"):
        table.add_column(name, justify="right")
    for count, simulation in zip(counts, simulations, strict=True):
        table.add_row(
            str(count),
            duration(simulation.makespan),
            f"{100 * simulation.utilisation:.0f} %",
            duration(simulation.lower_bound),
        )
    return table
