"""`plan`: what a run would do, what it can find, and how long it would take on how many GPUs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clip_pkg.base.errors import UserError
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.cli.parser import Parser, given_path, positive
from clip_pkg.cli.run_arguments import add_study, study_request
from clip_pkg.config.flags import add_config_flags
from clip_pkg.launch.request import RunFolders

if TYPE_CHECKING:
    from rich.table import Table

    from clip_pkg.scheduling.queue import Estimates
    from clip_pkg.study.tasks import Task

SUMMARY = "show the tasks, what is done, what it can find, and how long it takes on how many GPUs"
DESCRIPTION = (
    "Show what a run would do: tasks, what is finished, how large a difference between configs it "
    "can find, and simulated durations. Takes the flags of a run; nothing is written."
)
GPU_COUNTS = (1, 2, 4, 8)


def add_arguments(parser: Parser) -> None:
    """Add the flags of a run that matter to its plan, and those of the simulation."""
    parser.require("--data-dir", "--output-dir")
    add_study(parser)
    group = parser.add_argument_group("the run")
    for name, text in (
        ("--output-dir", "folder of the run; its finished folds say how long folds take"),
        ("--cache-dir", "as for the run"),
        ("--resume-from", "as for the run"),
    ):
        group.add_argument(name, type=given_path, metavar="DIR", help=text)
    for name in ("--folds-at-once", "--jobs-per-gpu"):
        group.add_argument(
            name,
            type=positive,
            metavar="N",
            help="folds that share a GPU; each is simulated as fast as alone (default: 1)",
        )
    group.add_argument(
        "--simulate",
        type=_gpus_to_simulate,
        metavar="GPUS=N",
        help="run the scheduler against simulated durations on N GPUs (default: on 1, 2, 4 and 8)",
    )
    add_config_flags(parser)


def run(parsed: argparse.Namespace) -> int:
    """Print the tasks, what is finished, what can be found, and simulated durations."""
    if parsed.folds_at_once is not None and parsed.jobs_per_gpu is not None:
        raise UserError("--folds-at-once and --jobs-per-gpu cannot be combined; give one")
    request = study_request(parsed)
    folders = RunFolders(output_dir=parsed.output_dir, cache_dir=parsed.cache_dir)
    from clip_pkg.launch.continuation import check_source
    from clip_pkg.launch.execution import estimates_of
    from clip_pkg.launch.preparation import prepare
    from clip_pkg.launch.probe import NoProbe
    from clip_pkg.launch.tasks import fold_tasks, pretraining_tasks
    from clip_pkg.launch.terminal import Terminal
    from clip_pkg.results.planning import detectable_differences
    from clip_pkg.scheduling.queue import pins
    from clip_pkg.scheduling.simulation import numbered_gpus, simulate
    from clip_pkg.study.tasks import damage, nouns, unfinished

    terminal = Terminal()
    # A plan needs no weights, so it does not spend seconds on importing torch to check encoders.
    configs = prepare(request, NoProbe(), terminal).configs
    if parsed.resume_from is not None:
        check_source(parsed.resume_from, configs)
    tasks = [
        *pretraining_tasks(configs, folders),
        *fold_tasks(configs, folders, resume_from=parsed.resume_from),
    ]
    waiting = unfinished(tasks)
    estimates = estimates_of(folders.run)
    terminal.show(_task_table(tasks, estimates))
    damaged = [error for task in waiting if (error := damage(task)) is not None]
    for error in damaged:
        terminal.line(f"NOT FINISHED: {error}", "yellow")
    terminal.line(f"{len(tasks) - len(waiting)} of {len(tasks)} {nouns(tasks)} are finished.")
    if not waiting:
        return ExitCode.DONE
    for sentence in detectable_differences(configs):
        terminal.line(sentence)
    if not estimates.knows_anything:
        terminal.line(
            f"No fold has finished in {folders.output_dir}, so nobody can know yet how long one "
            "takes. What follows assumes folds of equal length.",
            "yellow",
        )
    from rich.table import Table

    from clip_pkg.launch.terminal import duration

    table = Table(title="Simulated with the real scheduler", title_justify="left")
    for name in ("GPUs", "Takes", "Busy", "Idle GPUs", "Lower bound"):
        table.add_column(name, justify="right")
    for gpus in (parsed.simulate,) if parsed.simulate else GPU_COUNTS:
        devices = numbered_gpus(gpus)
        simulation = simulate(
            waiting,
            devices,
            estimates.seconds,
            jobs_per_device=parsed.folds_at_once or parsed.jobs_per_gpu or 1,
            estimates=estimates_of(folders.run),
            listed=pins(tasks, devices),
        )
        table.add_row(
            str(gpus),
            duration(simulation.makespan) if estimates.knows_anything else "?",
            f"{100 * simulation.utilisation:.0f} %",
            ", ".join(simulation.idle) or "none",
            duration(simulation.lower_bound) if estimates.knows_anything else "?",
        )
    terminal.show(table)
    return ExitCode.FAILED if damaged else ExitCode.DONE


def _task_table(tasks: Sequence[Task], estimates: Estimates) -> Table:

    from clip_pkg.base.wrapping import NameTable, Parts
    from clip_pkg.launch.terminal import duration
    from clip_pkg.study.tasks import finished

    by_config: dict[Path, list[Task]] = {}
    for task in tasks:
        by_config.setdefault(task.run_dir, []).append(task)
    table = NameTable(title="Tasks", title_justify="left")
    table.add_column("Config", overflow="fold")
    for name in ("Folds", "Done", "GPUs", "Pinned to", "One fold", "Left"):
        table.add_column(name, justify="right")
    for run_dir, mine in by_config.items():
        done = sum(1 for task in mine if finished(task) is not None)
        seconds = estimates.seconds(mine[0])
        pin = mine[0].config.gpu_id
        table.add_row(
            Parts(run_dir.name),
            f"{len(mine)}{_repeats(mine[0])}",
            str(done),
            str(mine[0].gpus),
            "" if pin is None else str(pin),
            duration(seconds) if estimates.knows_anything else "?",
            duration(seconds * (len(mine) - done)) if estimates.knows_anything else "?",
        )
    return table


def _repeats(task: Task) -> str:
    """` (4 × 5)` for a config with four repeats of five folds."""
    from clip_pkg.study.tasks import FoldTask

    if not isinstance(task, FoldTask) or task.config.n_repeats == 1:
        return ""
    return f" ({task.config.n_repeats} × {task.n_splits})"


def _gpus_to_simulate(text: str) -> int:
    name, _, number = text.partition("=")
    if name.upper() != "GPUS" or not number.isdecimal() or int(number) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form GPUS=64")
    return int(number)
