"""Tables of 80 columns: names are broken between their parts, and only where they must be."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from clip_pkg.base.wrapping import NameTable, Parts


def lines(name: str, width: int, cells: int = 3) -> list[str]:
    table = NameTable()
    table.add_column("Config", overflow="fold")
    for number in range(cells):
        table.add_column(str(number), justify="right")
    table.add_row(Parts(name), *["58.71 ± 4.47"] * cells)
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    rows = [line for line in text.splitlines() if line.startswith("│")]
    return [row.split("│")[1].strip() for row in rows]


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (120, ["resnet18_learning_rate-0.001"]),
        (70, ["resnet18_", "learning_", "rate-", "0.001"]),
    ],
)
def test_a_name_is_broken_between_its_parts(width: int, shown: list[str]) -> None:
    assert lines("resnet18_learning_rate-0.001", width) == shown


def test_a_part_that_is_too_long_is_broken_anywhere() -> None:
    assert "".join(lines("x" * 40, 60)) == "x" * 40


def test_no_character_is_lost() -> None:
    for name in ("", "_", "a__b--c/d e", "-a-", "[red]x[/]"):
        assert "".join(Parts(name).parts) == name
