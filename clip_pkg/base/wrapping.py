"""Names of configs in tables of a terminal, broken between their parts where a column is narrow."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from clip_pkg.base.errors import shown

WIDEST_PART = 13  # columns that a part may claim, so that six numbers fit beside it in 80
WIDEST_WHOLE = 15  # columns that a name may claim without being broken
UNLIMITED = 10_000  # columns


class Parts:
    """`resnet18_learning_rate-0.01`, broken after `_`, `-`, `/` or a space.

    A part that is wider than the column is broken anywhere.
    """

    def __init__(self, name: str) -> None:
        self.parts: list[str] = re.findall(r"[^\s_/-]*[\s_/-]+|[^\s_/-]+", shown(name))

    @property
    def least_width(self) -> int:
        """Columns that it needs: all of a short name, else those of the widest part."""
        whole = cell_len("".join(self.parts))
        if whole <= WIDEST_WHOLE:
            return whole
        return min(WIDEST_PART, max((cell_len(part) for part in self.parts), default=0))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Widths between that of the widest part and that of the whole name."""
        whole = cell_len("".join(self.parts))
        return Measurement(self.least_width, whole).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """As many parts in each line as fit."""
        lines = [""]
        for part in self.parts:
            if lines[-1] and cell_len(lines[-1] + part.rstrip()) > options.max_width:
                lines.append("")
            lines[-1] += part
        yield Text("\n".join(lines), overflow="fold")


class NameTable(Table):
    """A table whose first column holds `Parts`; the other columns share what those need not."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Break names only where the table would be too wide."""
        names = self.columns[0]
        names.width = None
        unlimited = options.update(max_width=UNLIMITED)
        if Measurement.get(console, unlimited, self).maximum > options.max_width:
            cells = [cell for cell in names.cells if isinstance(cell, Parts)]
            names.width = max(cell.least_width for cell in [Parts(str(names.header)), *cells])
        yield from super().__rich_console__(console, options)
