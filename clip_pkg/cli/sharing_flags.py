"""Flags that let several folds share a device, and which others they cannot go with."""

from __future__ import annotations

import argparse
from typing import Any

from clip_pkg.base.errors import UserError
from clip_pkg.cli.slurm_flags import at_least_one

AUTO = "auto"


def add_sharing_flags(group: Any) -> None:
    """Add the flags to a group of the command line that trains."""
    group.add_argument(
        "--folds-at-once",
        "--folds_at_once",
        type=_folds,
        metavar="N",
        help="folds that share a device; they compute on an NVIDIA GPU at the same time if its "
        "Multi-Process Service is running, else they take turns; auto: as many as its memory "
        "holds, measured on the first fold, and no more than there are (default: 1)",
    )
    group.add_argument(
        "--jobs-per-gpu",
        "--jobs_per_gpu",
        type=_folds,
        metavar="N",
        help="the same, also with --executor ray (default: 1)",
    )


def add_simulated_sharing_flags(group: Any) -> None:
    """Add them to the command line that simulates, where both say the same."""
    for name in ("--folds-at-once", "--jobs-per-gpu"):
        group.add_argument(
            name,
            name[:2] + name[2:].replace("-", "_"),
            type=at_least_one,
            metavar="N",
            help="folds that share a GPU; each is simulated as fast as alone (default: 1)",
        )


def _folds(text: str) -> int | str:
    if text == AUTO:
        return text
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number from 1 nor auto")
    return int(text)


def folds_per_device(parsed: argparse.Namespace) -> int | str:
    """How many folds share a device: a number, or `auto`.

    Raises UserError when both flags were given.
    """
    at_once, jobs = parsed.folds_at_once, parsed.jobs_per_gpu
    if at_once is not None and jobs is not None:
        raise UserError(
            "--folds-at-once and --jobs-per-gpu both say how many folds share a device; give one"
        )
    asked: int | str = at_once or jobs or 1
    return asked


def check_sharing_flags(parsed: argparse.Namespace) -> None:
    """Raise UserError for flags that do not go together."""
    asked, executor = folds_per_device(parsed), parsed.executor
    if executor == "inline" and asked != 1:
        raise UserError(
            "--executor inline trains one fold after another in this process; leave out "
            "--folds-at-once and --jobs-per-gpu, or the executor"
        )
    if executor in ("ray", "slurm") and parsed.folds_at_once is not None:
        instead = " (--jobs-per-gpu N gives a fold a part of a GPU)" if executor == "ray" else ""
        raise UserError(
            f"--folds-at-once is about devices of this machine; leave it out with --executor "
            f"{executor}{instead}"
        )
