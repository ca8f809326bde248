"""A table as LaTeX, for the package booktabs."""

from __future__ import annotations

import re

from clip_pkg.report.tables import Table
from clip_pkg.results.latex import escape

LATIN = re.compile(r"[\x00-\u024f\u2010-\u2026\u2212]*")


def booktabs(table: Table, label: str = "tab:results") -> str:
    """A `table` environment; best cells are bold."""
    columns = "".join("r" if column.is_number else "l" for column in table.columns)
    lines = [
        "% \\usepackage{booktabs}, \\usepackage[T1]{fontenc}; wide: \\usepackage{graphicx}",
        *_font_hint(table),
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(table.caption)}}}",
        rf"  \label{{{label}}}",
        r"  \resizebox{\linewidth}{!}{%",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        _line([escape(column.heading) for column in table.columns]),
        r"    \midrule",
    ]
    for row, cells in enumerate(table.rows):
        lines.append(
            _line(
                [
                    rf"\textbf{{{escape(cell)}}}" if (row, column) in table.best else escape(cell)
                    for column, cell in enumerate(cells)
                ]
            )
        )
    if table.reference:
        lines.append(r"    \midrule")
        lines += [_line([escape(cell) for cell in cells]) for cells in table.reference]
    lines += [r"    \bottomrule", r"  \end{tabular}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _font_hint(table: Table) -> list[str]:
    cells = [cell for row in (*table.rows, *table.reference) for cell in row]
    if all(LATIN.fullmatch(cell) for cell in cells):
        return []
    return ["% has letters beyond Latin: set it with LuaLaTeX or XeLaTeX and a font that has them"]
