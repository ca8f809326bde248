"""The table of executors: what each is, how it is opened, and which options it takes.

A new executor is a module with an executor class and a function that opens it, and a row here; the
values of `--executor`, its help and the checks of options follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from clip_pkg.base.errors import UserError
from clip_pkg.base.paths import RunPaths
from clip_pkg.scheduling.inline import open_inline
from clip_pkg.scheduling.process import open_processes
from clip_pkg.scheduling.ray import open_ray
from clip_pkg.scheduling.resources import Execution, Resources
from clip_pkg.scheduling.slurm import open_slurm

Say: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class ExecutorRow:
    """One executor.

    open: finds its devices; the second argument is the run's folder, the third shows a line to the
    user. own: options of `Execution` that only it takes. refused: options that it does not take,
    each with the reason.
    """

    description: str
    open: Callable[[Execution, RunPaths, Say], Resources]
    own: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


ONE_MACHINE = "it applies to GPUs of this machine"
EXECUTORS: Mapping[str, ExecutorRow] = {
    "process": ExecutorRow("one process per device", open_processes),
    "inline": ExecutorRow(
        "this process, for debuggers",
        open_inline,
        refused=dict.fromkeys(
            ("folds_at_once", "jobs_per_gpu"), "it trains one fold after another in this process"
        ),
    ),
    "ray": ExecutorRow(
        "a Ray cluster",
        open_ray,
        own=("ray_address",),
        refused={
            "gpus": "Ray chooses the GPUs",
            "wait_for_gpu": "Ray waits for GPUs",
            "folds_at_once": f"{ONE_MACHINE}; --jobs-per-gpu N shares a GPU among N folds",
        },
    ),
    "slurm": ExecutorRow(
        "one job of a Slurm cluster per fold",
        open_slurm,
        own=("slurm",),
        refused=dict.fromkeys(("folds_at_once", "jobs_per_gpu", "wait_for_gpu"), ONE_MACHINE),
    ),
}


def open_executor(execution: Execution, run: RunPaths, say: Say) -> Resources:
    """Find devices and executor of a run.

    Raises UserError for options that cannot be combined and devices that do not exist.
    """
    row = EXECUTORS.get(execution.executor)
    if row is None:
        names = ", ".join(EXECUTORS)
        raise UserError(f"unknown executor {execution.executor!r}; choose from {names}")
    if execution.folds_at_once is not None and execution.jobs_per_gpu is not None:
        raise UserError("--folds-at-once and --jobs-per-gpu cannot be combined; give one")
    for name, other in EXECUTORS.items():
        flags = [flag for option in other.own for flag in _given(execution, option)]
        if flags and other is not row:
            raise UserError(f"{' and '.join(flags)}: only with --executor {name}")
    for option, reason in row.refused.items():
        for flag in _given(execution, option):
            raise UserError(
                f"{flag} cannot be used with --executor {execution.executor}: {reason}; leave it "
                "out"
            )
    return row.open(execution, run, say)


def _given(execution: Execution, option: str) -> list[str]:
    """Flags of an option that the user gave a value other than its default."""
    if option == "slurm":
        return execution.slurm.flags()
    value: Any = getattr(execution, option)
    return [] if value in (None, 0, 1) else [f"--{option.replace('_', '-')}"]
