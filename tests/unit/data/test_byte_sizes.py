from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.data.cache import parse_bytes, shown_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("50GB", 50 * 10**9),
        ("500MiB", 500 * 2**20),
        ("1.5 TB", 15 * 10**11),
        ("2tib", 2 * 2**40),
        ("7B", 7),
        (" 3kB ", 3000),
    ],
)
def test_sizes_as_people_write_them(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "50G", "5iB", "5 PB", "1e9", "１GB", "nan", "9" * 400]
)
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="50GB, 500MiB or 0"):
        parse_bytes(text)


@given(st.integers(0, 10**16))
def test_shown_sizes_are_read_back(count: int) -> None:
    shown = shown_bytes(count)
    read = parse_bytes(shown.replace("bytes", "B"))
    assert read == pytest.approx(count, rel=0.06)
    assert count >= 10**15 or len(shown) <= len("999 bytes")
