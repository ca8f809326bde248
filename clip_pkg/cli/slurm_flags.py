"""The flags of `--executor slurm`, and whether this machine can use them."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from collections.abc import Callable
from typing import TypeVar

from clip_pkg.base.errors import UserError
from clip_pkg.scheduling.slurm_options import SlurmOptions, as_options, parse_minutes, parse_option

COMMANDS = ("sbatch", "srun", "squeue", "scancel")
Value = TypeVar("Value")


def add_slurm_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags, in a group of their own."""
    group = parser.add_argument_group("on a Slurm cluster (--executor slurm)")
    group.add_argument("--partition", metavar="NAME", help="partition (default: the cluster's)")
    group.add_argument(
        "--time",
        type=_told(parse_minutes),
        metavar="LIMIT",
        help="time limit of a job: minutes, HH:MM:SS or D-HH:MM:SS (default: the partition's). A "
        "fold that takes longer checkpoints and goes on in the next job",
    )
    group.add_argument(
        "--gres",
        metavar="GRES",
        help="what a fold needs besides CPUs, such as gpu:1 or gpu:a100:1; gpus_per_task changes "
        "the number of GPUs (default: nothing, so folds train on the CPU)",
    )
    group.add_argument(
        "--slurm-option",
        "--slurm_option",
        type=_told(parse_option),
        action="append",
        metavar="KEY=VALUE",
        help="any other long option of sbatch, such as account=mylab, qos=high, mem=16G, "
        "cpus-per-task=8 or constraint=a100; can be repeated",
    )
    group.add_argument(
        "--max-jobs",
        "--max_jobs",
        type=at_least_one,
        metavar="N",
        help="folds that are in the queue or run at once (default: all)",
    )


def slurm_options(parsed: argparse.Namespace) -> SlurmOptions | None:
    """What the user asks of Slurm; None without `--executor slurm`.

    Raises UserError for flags that have no meaning with the chosen executor.
    """
    given = {
        "--partition": parsed.partition,
        "--time": parsed.time,
        "--gres": parsed.gres,
        "--slurm-option": parsed.slurm_option,
        "--max-jobs": parsed.max_jobs,
    }
    if parsed.executor != "slurm":
        useless = [flag for flag, value in given.items() if value is not None]
        if useless:
            raise UserError(f"{' and '.join(useless)}: only with --executor slurm")
        return None
    for flag, is_given in (
        ("--jobs-per-gpu", parsed.jobs_per_gpu not in (None, 1)),
        ("--wait-for-gpu", parsed.wait_for_gpu != 0),
    ):
        if is_given:
            raise UserError(f"{flag} is about GPUs of this machine; leave it out on Slurm")
    try:
        extra = as_options(parsed.slurm_option or ())
    except ValueError as error:
        raise UserError(f"--slurm-option: {error}") from None
    return SlurmOptions(parsed.partition, parsed.time, parsed.gres, extra, parsed.max_jobs)


def check_slurm() -> None:
    """Raise UserError where jobs cannot be submitted."""
    if importlib.util.find_spec("submitit") is None:
        raise UserError(
            '--executor slurm needs the submitit package: pip install "clip_pkg[slurm]"'
        )
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent:
        raise UserError(
            f"--executor slurm: no {' and no '.join(absent)} on this machine; start it where jobs "
            "are submitted from, or leave --executor out to train here"
        )


def _told(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Let argparse say what is wrong; it hides the words of a ValueError."""

    def read(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def at_least_one(text: str) -> int:
    """Read a count. Raises ArgumentTypeError for what is none."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
