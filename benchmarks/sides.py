"""Two programs that train the same thing, run in turn: what each took, and the ratio.

The side that begins changes every round, so that a machine that slows down slows both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import median_and_range
from benchmarks.trainer import TrainedRun


@dataclass(frozen=True)
class Cost:
    """Seconds of one run of one side.

    epoch: training and validation, mean over epochs. whole: everything after imports, of all
    epochs together, what is done once included. command: from the start of the program to its end.
    val_acc: percent after the last epoch; None where a side does not compute it.
    """

    epoch: float
    whole: float
    command: float
    val_acc: float | None

    @classmethod
    def of_trainer(cls, run: TrainedRun) -> Cost:
        """Cost of a run of one fold; that is all but the preparation, which is in `command`."""
        (fold,) = run.folds
        return cls(fold.per_epoch, fold.seconds, run.command_seconds, fold.val_acc)

    @classmethod
    def of_answer(cls, told: Mapping[str, Any]) -> Cost:
        """Cost as another program printed it."""
        epochs = told["epoch_seconds"]
        mean = sum(epochs) / len(epochs)
        return cls(mean, told["seconds"], told["command_seconds"], told.get("val_acc"))


Side = Callable[[Path], Cost]  # runs once, into a new folder


def in_turn(ours: Side, theirs: Side, rounds: int, folder: Path) -> list[tuple[Cost, Cost]]:
    """Run both sides `rounds` times; one pair of costs per round, ours first.

    What a side wrote is deleted before the next one starts, so that nobody waits for a disk that is
    still busy with it.
    """
    pairs = []
    for number in range(rounds):
        sides = [("ours", ours), ("theirs", theirs)]
        costs = {}
        for name, run in sides if number % 2 == 0 else reversed(sides):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                costs[name] = run(Path(place) / name)
        pairs.append((costs["ours"], costs["theirs"]))
    return pairs


HEAD = """\
| | ours, s per epoch | other, s per epoch | ours / other | all epochs, ours / other | command, \
ours / other | accuracy, ours | accuracy, other | n |
|---|--:|--:|--:|--:|--:|--:|--:|--:|"""


def line(name: str, pairs: Sequence[tuple[Cost, Cost]]) -> str:
    """One line of a table: medians, and ratios within rounds with their range."""
    ours, theirs = zip(*pairs, strict=True)

    def ratios(value: Callable[[Cost], float]) -> str:
        return median_and_range([value(mine) / value(other) for mine, other in pairs])

    cells = [
        name,
        f"{median(cost.epoch for cost in ours):.2f}",
        f"{median(cost.epoch for cost in theirs):.2f}",
        f"**{ratios(lambda cost: cost.epoch)}**",
        ratios(lambda cost: cost.whole),
        ratios(lambda cost: cost.command),
        accuracy(ours),
        accuracy(theirs),
        str(len(pairs)),
    ]
    return "| " + " | ".join(cells) + " |"


def accuracy(costs: Sequence[Cost]) -> str:
    """Median in percent, if it is known."""
    known = [cost.val_acc for cost in costs if cost.val_acc is not None]
    return f"{median(known):.1f} %" if known else ""


EXPLAINED = (
    "A ratio below 1 means that ours is faster; medians of n rounds in which both sides run in "
    "turn, ratios within rounds, in brackets their range. An epoch is training and validation, all "
    "of both. All epochs: what happens once besides, and checkpoints; not the imports. Command: "
    "from start to end of the program, for ours with the check and the decoding of all images."
)
