"""Curves within epochs: the loss and its parts after each training step, for TensorBoard.

They lie beside the fold's epoch curves, under `fold_<k>/steps` with the same tags, and count
optimiser steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from clip_pkg.event_files import ScalarWriter
from clip_pkg.losses.contract import LossOutput, PartLabel

MOST_POINTS = 10_000  # per curve; TensorBoard shows a thousand of them
POINTS_PER_FETCH = 200  # the device is waited for once for so many


class StepCurves:
    """Collects the losses of steps on the device and writes them now and then.

    folder: the fold's TensorBoard folder. total_steps: of the whole training; when they exceed
    `MOST_POINTS`, every n-th is kept. done: steps that an interrupted attempt took and that count;
    their points stay, later ones go.
    """

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, PartLabel],
        *,
        total_steps: int,
        done: int,
    ) -> None:
        self._parts = parts
        self._every = math.ceil(total_steps / MOST_POINTS)
        self._step = done
        self._tags: list[str] = []
        self._pending: list[tuple[int, float, Tensor]] = []
        self._writer = ScalarWriter(folder / "steps", keep_until=done)

    def __enter__(self) -> StepCurves:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()

    def add(self, output: LossOutput) -> None:
        """Note the loss of the next step. Waits for the device once in many steps."""
        self._step += 1
        if self._step % self._every:
            return
        values = self._values(output)
        self._tags = list(values)
        row = torch.stack([value.detach().float() for value in values.values()])
        self._pending.append((self._step, time.time(), row))
        if len(self._pending) == POINTS_PER_FETCH:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        if self._pending:
            rows = torch.stack([row for _, _, row in self._pending]).tolist()
            for (step, moment, _), row in zip(self._pending, rows, strict=True):
                values = zip(self._tags, row, strict=True)
                finite = {tag: value for tag, value in values if math.isfinite(value)}
                self._writer.add(step, finite, wall_time=moment)
            self._pending.clear()
        self._writer.flush()

    def _values(self, output: LossOutput) -> dict[str, Tensor]:
        values = {"Loss/Total": output.total}
        for name, value in output.parts.items():
            values[self._parts[name].tag] = value
            if len(output.parts) > 1:
                values[self._parts[name].weighted_tag] = output.weights[name] * value
        return values | {f"Logits/{name}": value for name, value in output.statistics.items()}
