"""One row per epoch, kept as equal-length columns in `history.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from clip_pkg.base.files import write_json

Columns: TypeAlias = dict[str, float | None]  # one row, by column


def finite_or_none(value: float | None) -> float | None:
    """None for undefined values, because JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


class History:
    """Columns of numbers, one entry per epoch; `epochs` counts the rows."""

    def __init__(self, columns: Mapping[str, list[float | None]] | None = None) -> None:
        self.columns: dict[str, list[float | None]] = {
            name: list(values) for name, values in (columns or {}).items()
        }
        lengths = {len(values) for values in self.columns.values()}
        assert len(lengths) <= 1, "history columns of different lengths"

    @property
    def epochs(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()), []))

    def append(self, row: Columns) -> None:
        """Add the row of the next epoch; every epoch has the same columns."""
        if not self.columns:
            self.columns = {name: [] for name in row}
        assert set(row) == set(self.columns), set(row) ^ set(self.columns)
        for name, value in row.items():
            self.columns[name].append(finite_or_none(value))

    def row(self, epoch: int) -> Columns:
        """Row of `epoch`, which counts from 1."""
        return {name: values[epoch - 1] for name, values in self.columns.items()}

    def write(self, path: Path, *, final: bool = False) -> None:
        """Write `history.json`; until it is final, a checkpoint has it after a power failure."""
        write_json(path, self.columns, durable=final)
