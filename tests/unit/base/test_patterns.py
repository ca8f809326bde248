from __future__ import annotations

import re

import pytest

from clip_pkg.base.errors import UserError
from clip_pkg.base.patterns import first_groups


def test_groups_are_those_of_re() -> None:
    names = ("p12_a.png", "q.png", "p7_ü\n.png", "_p3_.png")
    pattern = r"(?<!_)(?P<patient>p\d+)_|(q)\."
    found = [re.search(pattern, name) for name in names]
    assert first_groups(pattern, names) == tuple(match and match.group(1) for match in found)


@pytest.mark.parametrize("pattern", ["((a+)+)$", "(a|aa)+$", "((a*)*)b", "(.*a){20}x"])
def test_a_search_that_takes_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="takes too long"):
        first_groups(pattern, ("a" * 80 + "!",))
