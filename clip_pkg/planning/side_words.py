"""Names that speak of left and right: mirrored images would contradict them."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Sure on their own, in the languages that X-ray archives are labelled in.
SIDES = frozenset(
    {"left", "links", "gauche", "izquierda", "izquierdo", "sinistra", "sinistro"}
    | {"right", "rechts", "droite", "droit", "derecha", "derecho", "destra", "destro"}
)
# Too short or too common alone; they count where the other one is named as well.
PAIRS = (("l", "r"), ("lt", "rt"), ("li", "re"), ("sx", "dx"), ("izq", "der"), ("lhs", "rhs"))
CHARACTERS = ("左", "右")  # parts of many words, so both must occur too
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def side_words(names: Iterable[str]) -> tuple[str, ...]:
    """Pick the names that look like left or right, sorted.

    `names` are class names and file names. `left`, `Rechts` and the like count alone; `L`, `dx`
    and the Chinese characters only if some name says the other side in the same way.
    """
    words = {name: frozenset(word.lower() for word in WORD.findall(name)) for name in set(names)}
    found = {name for name, parts in words.items() if parts & SIDES}
    for pair in PAIRS:
        found |= _paired(words, *pair)
    found |= _paired({name: frozenset(name) for name in words}, *CHARACTERS)
    return tuple(sorted(found))


def _paired(parts: dict[str, frozenset[str]], left: str, right: str) -> set[str]:
    """Names with either part, if there are some with each."""
    sides = [{name for name, have in parts.items() if side in have} for side in (left, right)]
    return sides[0] | sides[1] if all(sides) else set()
