"""Small things of the terminal: names and durations."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from clip_pkg.launch.terminal import PlainConsole, Terminal, duration, shortened


def test_what_all_names_begin_with_is_left_out() -> None:
    names = ["resnet18_clip_ViT-B_32_clip", "resnet18_clip_ViT-B_32_ce"]
    assert shortened(names) == ("resnet18_clip_ViT-B_32", ["…_clip", "…_ce"])
    assert shortened(["a_clip", "a_ce"]) == ("", ["a_clip", "a_ce"])
    assert shortened(names[:1]) == ("", names[:1])


@given(st.lists(st.text("ab_", min_size=1, max_size=30), max_size=5, unique=True))
def test_short_names_stand_for_the_long_ones(names: list[str]) -> None:
    prefix, short = shortened(names)
    assert [name.replace("…", prefix, 1) if prefix else name for name in short] == names
    assert len(set(short)) == len(names)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_names_and_messages_are_text(is_terminal: bool) -> None:
    stream = io.StringIO()
    console = PlainConsole(file=stream, width=200, force_terminal=is_terminal, color_system=None)
    terminal = Terminal(console)
    hostile = "[red]a[/b] :smile: \x1b[2J\x1b]0;title\x07 \u202e"
    table = Table(hostile, title=hostile, caption=hostile, width=150)
    table.add_row(hostile)
    terminal.line(hostile)
    terminal.note(hostile)
    terminal.show(table)
    with terminal.counting(hostile) as progress:
        progress(1, 1)
    with terminal.waiting(hostile):
        pass
    shown = stream.getvalue()
    assert shown.count("[red]a[/b] :smile: \\x1b[2J\\x1b]0;title") >= 7
    assert not {"\x07", "\u202e"} & set(shown)
    assert "\x1b[2J" not in shown
