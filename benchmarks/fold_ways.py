"""Ways to train several folds on one device, each with processes of its own, and their times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measurement import interleaved
from clip_pkg.base.cores import usable_cores
from clip_pkg.scheduling.devices import Device, child_environment, gpu_memory

CHECKOUT = Path(__file__).resolve().parents[1]
ENCODER, BATCH = "resnet18", 32
TOLERANCE = 1e-6  # relative, of float64 after two steps of AdamW
ONE_BY_ONE, PROCESSES, THREADS, FUSED = (
    "one fold after another",
    "processes",
    "threads of one process",
    "one fused program (`torch.vmap`)",
)


class DisagreementError(Exception):
    """Two ways do not train the same folds."""


class NotRun(Exception):
    """A way cannot be carried out here; says why."""


class Way:
    """Processes that train folds together: one of all, or one for each."""

    def __init__(self, kind: str, teams: Sequence[Sequence[int]], threads: int) -> None:
        self._kind = kind
        self._teams = teams
        self._threads = threads
        self._processes: list[subprocess.Popen[str]] = []

    @contextmanager
    def started(self, size: int, device: Device) -> Iterator[None]:
        """Have the processes, for images of so many pixels a side."""
        for folds in self._teams:
            words = ["--size", size, "--encoder", ENCODER, "--batch", BATCH]
            words += ["--device", device.torch_name, "--threads", self._threads, "--folds", *folds]
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.fold_team", self._kind, *map(str, words)],
                    cwd=CHECKOUT,
                    env=child_environment([device], os.environ),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        try:
            yield
        finally:
            for process in self._processes:
                process.communicate()  # it ends with its input
            self._processes.clear()

    def ask(self, order: str, **details: int) -> list[dict[str, Any]]:
        """Give all processes an order; returns their answers. Raises NotRun."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"order": order, **details}) + "\n")
            process.stdin.flush()
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            answers.append(json.loads(process.stdout.readline() or '{"error": "it ended"}'))
        for answer in answers:
            if "error" in answer:
                raise NotRun(answer["error"])
        return answers


@dataclass(frozen=True)
class Measured:
    """Seconds per fold and step in each round, bytes of memory; or why there are none."""

    seconds: Sequence[float] = ()
    memory: int = 0
    problem: str = ""


def ways(folds: int, cores: int) -> dict[str, Way]:
    """All ways to train this number of folds."""
    everybody, each = [list(range(folds))], [[number] for number in range(folds)]
    share = max(1, cores // folds)
    return {
        ONE_BY_ONE: Way("alone", everybody, cores),
        PROCESSES: Way("alone", each, share),
        THREADS: Way("threads", everybody, share),
        FUSED: Way("fused", everybody, cores),
    }


def compare(
    size: int, folds: int, device: Device, *, rounds: int, steps: int
) -> tuple[dict[str, Measured], float]:
    """Measure all ways at one size; also returns how far their losses differed at most."""
    problems: dict[str, Measured] = {}
    memory: dict[str, int] = {}
    with ExitStack() as running:
        present = ways(folds, usable_cores())
        for name, way in list(present.items()):
            before = gpu_memory(device).free if device.is_gpu else 0
            running.enter_context(way.started(size, device))
            try:
                answers = way.ask("steps", number=steps)
            except NotRun as error:
                problems[name] = Measured(problem=str(error))
                del present[name]
                continue
            memory[name] = sum(answer["memory"] for answer in answers)
            if device.is_gpu:
                memory[name] = before - gpu_memory(device).free
        seen = interleaved(
            [lambda way=way: way.ask("steps", number=steps) for way in present.values()],
            torch.device("cpu"),  # the processes wait for theirs
            rounds=rounds,
            seconds=float("inf"),
        )
        worst = _largest_difference(present, problems)
    measured = {
        name: Measured([value / folds / steps for value in seconds], memory[name])
        for name, seconds in zip(present, seen, strict=True)
    }
    return measured | problems, worst


def _largest_difference(present: Mapping[str, Way], problems: dict[str, Measured]) -> float:
    """Relative difference of losses and statistics from those of one fold after another.

    A way that cannot be checked is a problem.
    """
    wanted: Mapping[str, list[Any]] = {}
    worst = 0.0
    for name, way in present.items():
        try:
            answers = way.ask("check")
        except NotRun as error:
            problems[name] = Measured(problem=str(error))
            continue
        found = {
            key: [row for answer in answers for row in answer[key]]
            for key in ("losses", "statistics")
        }
        wanted = wanted or found
        for key, values in found.items():
            mine, theirs = (torch.tensor(one, dtype=torch.float64) for one in (values, wanted[key]))
            difference = float(((mine - theirs).abs() / theirs.abs().clamp_min(1e-3)).max())
            if not difference < TOLERANCE:
                raise DisagreementError(f"{name}: {key} differ by {difference:.1e}")
            worst = max(worst, difference)
    return worst
