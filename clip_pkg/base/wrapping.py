"""Names of configs in tables of a terminal, broken between their parts where a column is narrow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from clip_pkg.base.errors import shown

WIDEST_PART = 20  # columns that a part may claim
WIDEST_WHOLE = 18  # columns that a name may claim without being broken


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


def add_name_column(table: Table, heading: str, names: Iterable[str]) -> None:
    """Add a column for `Parts` of these names, in which no part need be broken."""
    least = [Parts(name).least_width for name in (heading, *names)]
    table.add_column(heading, overflow="fold", min_width=max(least))
