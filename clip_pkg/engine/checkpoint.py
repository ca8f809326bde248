"""Checkpoints: what they hold, when they are written, and how they are read without running code.

`checkpoint_best.pth` is what inference needs: weights, classes, prompts, config. While a fold
trains, `checkpoint_latest.pth` also holds the optimiser and the run's state; both are plain
tensors, numbers and strings, so that `torch.load(weights_only=True)` reads them.
"""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import torch

from clip_pkg.atomic import write_with
from clip_pkg.errors import CheckpointError

FORMAT_VERSION = 1
# Checkpoints may take this share of the training time; small models are saved every epoch, large
# ones as often as that allows, so that writing never dominates and a crash costs little.
TIME_SHARE = 0.05


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content`, whole or not at all; a full disk is an error, and the old file stays."""
    try:
        write_with(
            path, lambda stream: torch.save({"format_version": FORMAT_VERSION, **content}, stream)
        )
    except RuntimeError as error:  # torch's zip writer reports a short write this way
        raise OSError(f"{path} could not be written: {error}") from error


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint. Raises CheckpointError if it is absent, damaged, hostile or foreign."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values and could run code when loaded; it "
            "was refused. Checkpoints of this program never need that"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint: {error}") from None
    if not isinstance(content, dict) or "format_version" not in content:
        raise CheckpointError(f"{path} is no checkpoint of this program: it has no format_version")
    if content["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {content['format_version']}, this program reads "
            f"{FORMAT_VERSION}; load it with the version that wrote it"
        )
    return content


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
