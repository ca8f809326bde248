"""What a run asks of Slurm: the user's options and the request for sbatch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Slurm warns a job this long before its end; the signal can come up to a minute earlier.
SECONDS_OF_WARNING = 90
GPU_OPTIONS = ("gpus", "gpus-per-node", "gpus-per-task")
OWN_FLAGS = ("partition", "time", "gres")
SET_BY_US = (
    "array",
    "chdir",
    "error",
    "job-name",
    "no-requeue",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "open-mode",
    "output",
    "parsable",
    "requeue",
    "signal",
    "test-only",
    "wait",
    "wrap",
)
_KEY = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TIME = re.compile(r"(?:(?P<days>\d{1,4})-)?(?P<clock>\d{1,6}(?::\d{1,2}){0,2})", re.ASCII)


@dataclass(frozen=True)
class SlurmOptions:
    """Options for the job of a fold; None leaves the choice to the cluster.

    minutes: time limit. gres: of a fold on one GPU. extra: further sbatch options by long name;
    True for those without a value. max_jobs: in the queue or running at once.
    """

    partition: str | None = None
    minutes: int | None = None
    gres: str | None = None
    extra: tuple[tuple[str, str | bool], ...] = ()
    max_jobs: int | None = None

    def flags(self) -> list[str]:
        """Flags that the user gave."""
        given = {
            "--partition": self.partition,
            "--time": self.minutes,
            "--gres": self.gres,
            "--slurm-option": self.extra or None,
            "--max-jobs": self.max_jobs,
        }
        return [flag for flag, value in given.items() if value is not None]

    @property
    def asks_for_gpus(self) -> bool:
        """Whether the options ask for a GPU."""
        named = any(_is_gpu(item) for item in (self.gres or "").split(","))
        return named or any(key in GPU_OPTIONS for key, _ in self.extra)

    @property
    def seconds_of_warning(self) -> int:
        """How long before its end a job is warned; short jobs keep most of their time."""
        if self.minutes is None:
            return SECONDS_OF_WARNING
        return min(SECONDS_OF_WARNING, self.minutes * 60 // 4)

    def request(self, gpus: int) -> dict[str, str | bool | int]:
        """Sbatch options by long name for a fold on `gpus` GPUs."""
        wanted: dict[str, str | bool | int] = dict(self.extra)
        if self.partition is not None:
            wanted["partition"] = self.partition
        if self.minutes is not None:
            wanted["time"] = self.minutes
        for key in GPU_OPTIONS:
            if gpus > 1 and isinstance(value := wanted.get(key), str):
                wanted[key] = _counted(value, gpus)
        gres = self.gres
        if gpus > 1 and not (gres is None and self.asks_for_gpus):
            gres = _counted_gres(gres, gpus)
        return wanted if gres is None else {**wanted, "gres": gres}


def _is_gpu(item: str) -> bool:
    return item.partition(":")[0] == "gpu"


def _counted(item: str, count: int) -> str:
    """`gpu`, `gpu:1` or `gpu:a100:1` with another count; `1` and `a100:1` too."""
    name, _, last = item.rpartition(":")
    if not last.isdecimal():
        return f"{item}:{count}"
    return f"{name}:{count}" if name else str(count)


def _counted_gres(gres: str | None, gpus: int) -> str:
    items = gres.split(",") if gres else []
    if not any(map(_is_gpu, items)):
        return ",".join([*items, f"gpu:{gpus}"])
    return ",".join(_counted(item, gpus) if _is_gpu(item) else item for item in items)


def parse_minutes(text: str) -> int:
    """Read a time limit as Slurm does: `90`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM[:SS]`.

    Returns minutes, rounded up. Raises ValueError for anything else, and for a time of 0.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is neither minutes nor HH:MM:SS nor D-HH:MM:SS")
    parts = [int(part) for part in match["clock"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        hours += 24 * int(match["days"])
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = [0, *parts][-3:]
    total = 60 * hours + minutes + (seconds + 59) // 60
    if total == 0:
        raise ValueError(f"{text!r} is too short; a Slurm job needs at least one minute")
    return total


def parse_option(text: str) -> tuple[str, str | bool]:
    """Read `KEY=VALUE`, or `KEY` for an option without a value.

    Raises ValueError for an invalid option, and for those that are set elsewhere.
    """
    key, equals, value = text.partition("=")
    key = key.removeprefix("--").replace("_", "-")
    if _KEY.fullmatch(key) is None or (equals and not value):
        raise ValueError(f"{text!r} is not KEY=VALUE with a long option of sbatch: account=mylab")
    # A line break would end the option and begin a command in the job's script.
    if not value.isprintable():
        raise ValueError(f"{text!r} contains non-printable characters")
    if key in OWN_FLAGS:
        raise ValueError(f"{key} has its own flag: --{key}")
    if key in SET_BY_US:
        raise ValueError(f"{key} is set by this program")
    return key, value if equals else True


def as_options(pairs: Iterable[tuple[str, str | bool]]) -> tuple[tuple[str, str | bool], ...]:
    """Sort options by name. Raises ValueError for an option that is given twice."""
    options: dict[str, str | bool] = {}
    for key, value in pairs:
        if key in options:
            raise ValueError(f"{key} was given twice")
        options[key] = value
    return tuple(sorted(options.items()))
