"""Cells of CSV files that a spreadsheet does not take for formulas.

A file name such as `=HYPERLINK(…)` would be run when the CSV file is opened. An apostrophe before
it makes it text; `unescape_cell` gives the name back exactly.
"""

from __future__ import annotations

import contextlib
from typing import TypeVar

Cell = TypeVar("Cell")

FORMULA_STARTS = tuple("=+-@\t\r\n")


def escape_cell(value: Cell) -> Cell | str:
    """Put an apostrophe before a text that begins like a formula; numbers stay as they are."""
    return f"'{value}" if _is_formula(value) else value


def unescape_cell(text: str) -> str:
    """The text that `escape_cell` was given."""
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def _is_formula(value: object) -> bool:
    """Whether a text, after any number of apostrophes, begins like a formula and is no number."""
    if not isinstance(value, str) or not value.lstrip("'").startswith(FORMULA_STARTS):
        return False
    with contextlib.suppress(ValueError):
        float(value)
        return False
    return True
