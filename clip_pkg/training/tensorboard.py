"""A fold's curves for TensorBoard: `fold_<k>/train` and `fold_<k>/val` with the same tags."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType

import torch
from torch import Tensor

from clip_pkg.base.event_files import ScalarWriter
from clip_pkg.config.loss_blocks import TermLabel
from clip_pkg.losses.contract import LossOutput
from clip_pkg.training.history import History

SPLITS = ("train", "val", "inner_val")
MAX_POINTS = 10_000  # per curve; TensorBoard shows a thousand of them
POINTS_PER_FETCH = 200  # steps for which the device is waited for once


class FoldCurves:
    """Writes the rows of `history`, those of an interrupted attempt first, then one per epoch.

    parts: the loss's terms. others: tags of further columns of the training split.
    """

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, TermLabel],
        history: History,
        others: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._others = others
        self._folder = folder
        self._parts = parts
        self._history = history
        self._writers: dict[str, ScalarWriter] = {}

    def __enter__(self) -> FoldCurves:
        for epoch in range(1, self._history.epochs + 1):
            self._write(epoch, self._history)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for writer in self._writers.values():
            writer.close()

    def add(self, history: History) -> None:
        """Write the newest row of `history`."""
        self._write(history.epochs, history)

    def _write(self, epoch: int, history: History) -> None:
        row = history.row(epoch)
        for split in SPLITS:
            values = {
                tag: value
                for name, tag in self._tags(split).items()
                if (value := row.get(name)) is not None
            }
            if values:
                if split not in self._writers:
                    self._writers[split] = ScalarWriter(self._folder / split)
                self._writers[split].add(epoch, values)
                self._writers[split].flush()

    def _tags(self, split: str) -> dict[str, str]:
        tags = {f"{split}_loss": "Loss/Total"}
        tags |= {f"{split}_{name}_loss": part.tag for name, part in self._parts.items()}
        tags |= {
            f"{split}_{name}_weighted": part.weighted_tag for name, part in self._parts.items()
        }
        tags |= {f"{split}_{name}_share": part.share_tag for name, part in self._parts.items()}
        logits = f"{split}_logits_"
        tags |= {
            name: f"Logits/{name.removeprefix(logits)}"
            for name in self._history.columns
            if name.startswith(logits)
        }
        if split == "train":
            tags |= self._others
            tags |= {
                "learning_rate": "Optimisation/learning_rate",
                "temperature": "Optimisation/temperature",
            }
            tags |= {
                name: f"Speed/{name.removeprefix('train_')}"
                for name in self._history.columns
                if name.startswith("train_") and name.endswith("_per_second")
            }
        known = set(tags)
        for name in self._history.columns:
            if name.startswith(f"{split}_") and name not in known:
                tags[name] = f"Metrics/{name.removeprefix(f'{split}_')}"
        return tags


class StepCurves:
    """Collects the losses of steps on the device and writes them once in many steps.

    folder: the fold's TensorBoard folder. total_steps: of the whole training; when they exceed
    `MAX_POINTS`, every n-th is kept. done: steps of an interrupted attempt that count; their points
    stay, later ones are dropped.
    """

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, TermLabel],
        *,
        total_steps: int,
        done: int,
    ) -> None:
        self._parts = parts
        self._every = math.ceil(total_steps / MAX_POINTS)
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
        """Add the loss of the next step. Waits for the device once in many steps."""
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
        for name, value in output.terms.items():
            values[self._parts[name].tag] = value
            if len(output.terms) > 1:
                values[self._parts[name].weighted_tag] = output.weights[name] * value
        return values | {f"Logits/{name}": value for name, value in output.statistics.items()}
