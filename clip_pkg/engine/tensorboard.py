"""A fold's curves for TensorBoard: `fold_<k>/train` and `fold_<k>/val` with the same tags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType

from clip_pkg.engine.history import History
from clip_pkg.event_files import ScalarWriter
from clip_pkg.losses.contract import PartLabel

SIDES = ("train", "val", "inner_val")


class FoldCurves:
    """Writes the rows of `history`, those of an interrupted attempt first, then one per epoch.

    parts: of the loss. others: tags of further columns of the training side.
    """

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, PartLabel],
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
        for side in SIDES:
            values = {
                tag: value
                for name, tag in self._tags(side).items()
                if (value := row.get(name)) is not None
            }
            if values:
                if side not in self._writers:
                    self._writers[side] = ScalarWriter(self._folder / side)
                self._writers[side].add(epoch, values)
                self._writers[side].flush()

    def _tags(self, side: str) -> dict[str, str]:
        tags = {f"{side}_loss": "Loss/Total"}
        tags |= {f"{side}_{name}_loss": part.tag for name, part in self._parts.items()}
        tags |= {f"{side}_{name}_weighted": part.weighted_tag for name, part in self._parts.items()}
        tags |= {f"{side}_{name}_share": part.share_tag for name, part in self._parts.items()}
        logits = f"{side}_logits_"
        tags |= {
            name: f"Logits/{name.removeprefix(logits)}"
            for name in self._history.columns
            if name.startswith(logits)
        }
        if side == "train":
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
            if name.startswith(f"{side}_") and name not in known:
                tags[name] = f"Metrics/{name.removeprefix(f'{side}_')}"
        return tags
