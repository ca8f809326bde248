"""Small things of the terminal: names and durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.launch.terminal import duration, shortened


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
