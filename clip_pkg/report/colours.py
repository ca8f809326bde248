"""Colours by what they mean, for paper and screen, light and dark.

The hues are those of Okabe and Ito (2008), which people with any colour vision tell apart, darkened
or lightened until lines have a contrast of 3:1 and text one of 4.5:1 against the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Role:
    """A colour's name in the page's style sheet, and its values (lower-case hex)."""

    name: str
    light: str
    dark: str


PAPER = Role("paper", "#ffffff", "#16181d")
INK = Role("ink", "#1b1e24", "#e9eaee")
MUTED = Role("muted", "#5b6270", "#a6adba")
RULE = Role("rule", "#d9dce2", "#343945")
FIRST = Role("first", "#0069a8", "#5bb4ea")
SECOND = Role("second", "#bb4a02", "#f0975a")
THIRD = Role("third", "#00795b", "#35c69b")
HEAT = Role("heat", "#63a5d9", "#2d6da6")
BAR = Role("bar", "#9cc3e2", "#35618a")
WRONG = Role("wrong", "#c22f2f", "#ff8a85")

# Of classes in a map; with as many markers there are enough pairs for 56.
CLASS_ROLES = (
    FIRST,
    SECOND,
    THIRD,
    Role("class-4", "#97477f", "#e59acb"),
    Role("class-5", "#8a6d00", "#e6c84a"),
    Role("class-6", "#3d4657", "#c3c9d4"),
    Role("class-7", "#6a4fb3", "#b9a3f5"),
    Role("class-8", "#2a7fae", "#9ed4f5"),  # the nearest to another, the first
)
ROLES: Mapping[str, Role] = {
    role.name: role for role in (PAPER, INK, MUTED, RULE, HEAT, BAR, WRONG, *CLASS_ROLES)
}


def custom_properties(theme: str) -> str:
    """Declarations for the style sheet; `theme` is `light` or `dark`."""
    return " ".join(f"--{role.name}: {getattr(role, theme)};" for role in ROLES.values())
