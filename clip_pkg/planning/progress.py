"""Where a fold is: a small file that its worker rewrites and anybody may read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """One look at a fold that trains.

    phase: `train` or `val`, or what is being prepared. epoch and step count from 1. monitored: the
    monitored metric after the last epoch. updated: seconds since the epoch (1970).
    """

    phase: str
    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    monitored: float | None
    updated: float
    pid: int
    host: str

    @property
    def share(self) -> float:
        """Part of all epochs that is done, 0 to 1."""
        within = self.step / self.steps if self.steps and self.phase == "train" else 1.0
        return min(1.0, max(0.0, (self.epoch - 1 + within) / self.epochs)) if self.epochs else 0.0


def read_progress(path: Path) -> Progress | None:
    """Read a progress file; None while there is none, or none that can be read."""
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
