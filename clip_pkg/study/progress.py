"""Files that a worker writes for other processes: progress and profile of a fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias, get_args

from pydantic import ConfigDict, Field

from clip_pkg.base.errors import DamagedFile
from clip_pkg.base.files import write_json
from clip_pkg.base.reading import Count, read_json


@dataclass(frozen=True)
class Progress:
    """State of a fold in training.

    phase: `train`, `val`, or what is being prepared. epoch, step: from 1. monitored: monitored
    metric after the last epoch. updated: seconds since 1970. seconds, train_seconds: spent so far
    by all attempts, on everything and on training steps.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    phase: str
    epoch: Count
    epochs: Count
    step: Count
    steps: Count
    images_per_second: float
    monitored: float | None
    updated: float
    pid: int
    host: str
    seconds: float = 0.0
    train_seconds: float = 0.0

    @property
    def share(self) -> float:
        """Finished share of all epochs, 0 to 1."""
        within = self.step / self.steps if self.steps and self.phase == "train" else 1.0
        return min(1.0, max(0.0, (self.epoch - 1 + within) / self.epochs)) if self.epochs else 0.0

    @property
    def kept_share(self) -> float:
        """The same without an unfinished epoch, which is repeated when training resumes."""
        is_unfinished = self.phase in ("train", "val") and (
            self.phase == "train" or self.step < self.steps
        )
        return max(0, self.epoch - is_unfinished) / self.epochs if self.epochs else 0.0


def read_progress(path: Path) -> Progress | None:
    """Read a progress file; None if it is missing or unreadable."""
    try:
        return read_json(path, Progress)
    except (FileNotFoundError, DamagedFile):
        return None


Phase: TypeAlias = Literal[
    "data",
    "image forward",
    "text forward",
    "loss",
    "backward",
    "optimiser",
    "validation",
    "checkpoint",
]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class FoldProfile:
    """Seconds of a fold by phase, over some of its epochs.

    first_epoch, last_epoch: measured epochs, from 1. steps, images: of training in these epochs.
    seconds: by phase, with `other` for the rest, so that they add up to `total_seconds`. ranks:
    processes that train the fold together; seconds and device are those of rank 0, images those of
    all ranks.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    config: str
    fold: int
    device: str
    first_epoch: Count
    last_epoch: Count
    steps: Count
    images: Count
    total_seconds: float
    seconds: Annotated[dict[str, float], Field(min_length=1)]
    ranks: int = 1

    @property
    def shares(self) -> dict[str, float]:
        """Percent of the total time by phase; they add up to 100."""
        whole = sum(self.seconds.values()) or 1.0
        return {name: 100 * seconds / whole for name, seconds in self.seconds.items()}

    @property
    def rank_note(self) -> str:
        """Which of several ranks was measured, in words; empty for a single process."""
        return f", rank 0 of {self.ranks}" if self.ranks > 1 else ""

    @property
    def title(self) -> str:
        """One line that describes the measurement."""
        epochs = f"epochs {self.first_epoch}–{self.last_epoch}"
        if self.first_epoch == self.last_epoch:
            epochs = f"epoch {self.first_epoch}"
        where = f"{self.device}{self.rank_note}"
        return (
            f"Time of {self.config} fold {self.fold} by phase, {epochs} on {where}: "
            f"{self.images} images in {self.steps} steps"
        )

    def rows(self) -> Sequence[tuple[str, str, str]]:
        """Phase, seconds and percent as text; the last row is the sum."""
        rows = [
            (name, f"{seconds:.3f}", f"{self.shares[name]:.1f}")
            for name, seconds in self.seconds.items()
        ]
        return [*rows, ("sum", f"{self.total_seconds:.3f}", "100.0")]

    def write(self, path: Path) -> None:
        """Write the file for `read_profile`, with the shares for other readers."""
        write_json(path, {**vars(self), "shares": self.shares})


def read_profile(path: Path) -> FoldProfile | None:
    """Read a profile; None if it is missing or unreadable."""
    try:
        return read_json(path, FoldProfile)
    except (FileNotFoundError, DamagedFile):
        return None
