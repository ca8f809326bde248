"""When a fold's checkpoints are written."""

from __future__ import annotations

import time

# Checkpoints may take this share of the training time; small models are saved every epoch, large
# ones as often as that allows, so that writing never dominates and a crash costs little.
TIME_SHARE = 0.05


class Cadence:
    """Says when the next checkpoint is due, from what the last one cost."""

    def __init__(self) -> None:
        self._cost = 0.0
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether enough time has passed since the last checkpoint to pay for another."""
        return time.monotonic() - self._saved_at >= self._cost / TIME_SHARE

    def record(self, seconds: float) -> None:
        """Note that writing took `seconds` and ended now."""
        self._cost = seconds
        self._saved_at = time.monotonic()
