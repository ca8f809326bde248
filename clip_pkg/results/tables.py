"""One kind of table, as text in cells, and what it can be written as: terminal, Markdown, LaTeX.

`csv_text` writes rows of numbers with all digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from clip_pkg.base.spreadsheet import escape_cell
from clip_pkg.base.wrapping import NameTable, Parts

LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "χ": r"$\chi$",
    "²": r"\textsuperscript{2}",
}
LATEX_PREAMBLE = "% \\usepackage{booktabs}, \\usepackage{graphicx}, \\usepackage[T1]{fontenc}"
LATIN = re.compile(r"[\x00-\u024f\u2010-\u2026\u2212]*")


@dataclass(frozen=True)
class Table:
    """A title, column headings and cells; the first column names the row.

    words: positions of columns that hold words; the others hold numbers and are aligned right.
    reference: further rows, such as baselines. best: cells (row, column) with the best value.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset({0})
    reference: tuple[tuple[str, ...], ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()

    @property
    def is_number(self) -> tuple[bool, ...]:
        return tuple(place not in self.words for place in range(len(self.columns)))

    def with_column(
        self, place: int, heading: str, cells: Sequence[str], *, words: bool = False
    ) -> Table:
        """Insert a column before position `place`; it is empty in the reference rows."""

        def moved(column: int) -> int:
            return column + (column >= place)

        def inserted(row: tuple[str, ...], cell: str) -> tuple[str, ...]:
            return (*row[:place], cell, *row[place:])

        return replace(
            self,
            columns=inserted(self.columns, heading),
            rows=tuple(inserted(row, cell) for row, cell in zip(self.rows, cells, strict=True)),
            words=frozenset({*map(moved, self.words), *([place] if words else [])}),
            reference=tuple(inserted(row, "") for row in self.reference),
            best=frozenset((row, moved(column)) for row, column in self.best),
        )


def rich_table(table: Table) -> RichTable:
    """For a terminal; the first column has names."""
    shown, rows = NameTable(title=Text(table.title)), (*table.rows, *table.reference)
    shown.add_column(table.columns[0], overflow="fold")
    for name, is_number in list(zip(table.columns, table.is_number, strict=True))[1:]:
        shown.add_column(Text(name), overflow="fold", justify="right" if is_number else "left")
    for first, *cells in rows:
        shown.add_row(Parts(first), *map(Text, cells))
    return shown


def markdown_table(table: Table) -> str:
    """Heading and table in the syntax of GitHub."""
    rule = tuple("--:" if is_number else "---" for is_number in table.is_number)
    lines = (table.columns, rule, *table.rows, *table.reference)
    body = "\n".join("| " + " | ".join(map(markdown_escape, line)) + " |" for line in lines)
    return f"## {markdown_escape(table.title)}\n\n{body}"


def markdown_escape(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("_", r"\_")


def latex_table(table: Table, label: str = "") -> str:
    """A `table` environment for the packages of `LATEX_PREAMBLE`; best cells are bold."""

    def line(cells: Iterable[str]) -> str:
        return f"    {' & '.join(cells)} \\\\"

    rows = [
        line(
            rf"\textbf{{{latex_escape(cell)}}}"
            if (row, column) in table.best
            else latex_escape(cell)
            for column, cell in enumerate(cells)
        )
        for row, cells in enumerate(table.rows)
    ]
    if table.reference:
        rows += [r"    \midrule", *(line(map(latex_escape, cells)) for cells in table.reference)]
    cells = [cell for row in (*table.rows, *table.reference) for cell in row]
    is_latin = all(LATIN.fullmatch(cell) for cell in cells)
    lines = [
        *(
            []
            if is_latin
            else ["% has non-Latin letters: use LuaLaTeX or XeLaTeX and a font for them"]
        ),
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_escape(table.title)}}}",
        *([rf"  \label{{{label}}}"] if label else []),
        r"  \resizebox{\linewidth}{!}{%",
        rf"  \begin{{tabular}}{{{''.join('r' if one else 'l' for one in table.is_number)}}}",
        r"    \toprule",
        line(map(latex_escape, table.columns)),
        r"    \midrule",
        *rows,
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it is; quotes need the font encoding T1."""
    return "".join(LATEX_ESCAPES.get(char, char) for char in text)


def cells(record: object, columns: Mapping[str, str]) -> dict[str, object]:
    """A row of a CSV file.

    columns: heading → path of a field, such as `test.low`; None where a part of it is missing.
    """
    found: dict[str, object] = {}
    for heading, path in columns.items():
        value: Any = record
        for step in path.split("."):
            if value is not None:
                value = value.get(step) if isinstance(value, Mapping) else getattr(value, step)
        found[heading] = value
    return found


def csv_text(rows: Iterable[Mapping[str, object]], columns: Sequence[str] | None = None) -> str:
    """Rows of equal keys as CSV: numbers with all digits, None as an empty cell, no formulas.

    columns: their order; needed where there may be no row.
    """
    import pandas as pd  # noqa: PLC0415  takes half a second, and most commands write no CSV

    frame = pd.DataFrame(list(rows), columns=columns, dtype=object).map(escape_cell)
    headings = [escape_cell(heading) for heading in frame.columns]
    text: str = frame.to_csv(index=False, header=headings, lineterminator="\n")
    return text
