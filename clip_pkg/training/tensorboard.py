"""A fold's curves for TensorBoard: `fold_<k>/train` and `fold_<k>/val` with the same tags."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

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
    """Writes the rows of `history`: those of an earlier attempt first, then one per `add`.

    labels: of the loss's terms. others: tags of further columns of the training split.
    """

    def __init__(
        self,
        folder: Path,
        labels: Mapping[str, TermLabel],
        history: History,
        others: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._others = others
        self._folder = folder
        self._labels = labels
        self._history = history
        self._writers: dict[str, ScalarWriter] = {}

    def __enter__(self) -> FoldCurves:
        for epoch in range(1, self._history.epochs + 1):
            self._write(epoch)
        return self

    def __exit__(self, *error: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def add(self) -> None:
        """Write the newest row."""
        self._write(self._history.epochs)

    def _write(self, epoch: int) -> None:
        row = self._history.row(epoch)
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
        """Tags by column."""
        tags = {f"{split}_loss": "Loss/Total"}
        for name, label in self._labels.items():
            tags[f"{split}_{name}_loss"] = label.tag
            tags[f"{split}_{name}_weighted"] = label.weighted_tag
            tags[f"{split}_{name}_share"] = label.share_tag
        if split == "train":
            tags |= self._others
            tags["learning_rate"] = "Optimisation/learning_rate"
            tags["temperature"] = "Optimisation/temperature"
        for name in self._history.columns:
            short = name.removeprefix(f"{split}_")
            if short == name or name in tags:
                continue
            if short.startswith("logits_"):
                tags[name] = f"Logits/{short.removeprefix('logits_')}"
            elif split == "train" and short.endswith("_per_second"):
                tags[name] = f"Speed/{short}"
            else:
                tags[name] = f"Metrics/{short}"
        return tags


class StepCurves:
    """Collects the losses of steps on the device and writes them once in many steps.

    folder: the fold's TensorBoard folder. total_steps: of the whole training; when they exceed
    `MAX_POINTS`, every n-th is kept. done: steps up to the checkpoint of an earlier attempt, whose
    points are kept.
    """

    def __init__(
        self,
        folder: Path,
        labels: Mapping[str, TermLabel],
        *,
        total_steps: int,
        done: int,
    ) -> None:
        self._labels = labels
        self._every = math.ceil(total_steps / MAX_POINTS)
        self._step = done
        self._tags: list[str] = []
        self._pending: list[tuple[int, float, Tensor]] = []
        self._writer = ScalarWriter(folder / "steps", keep_until=done)

    def __enter__(self) -> StepCurves:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def add(self, output: LossOutput) -> None:
        """Add the loss of the next step. Waits for the device once in many steps."""
        self._step += 1
        if self._step % self._every:
            return
        values = {"Loss/Total": output.total}
        for name, value in output.terms.items():
            values[self._labels[name].tag] = value
            if len(output.terms) > 1:
                values[self._labels[name].weighted_tag] = output.weights[name] * value
        values |= {f"Logits/{name}": value for name, value in output.statistics.items()}
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
