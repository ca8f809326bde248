"""Names that speak of left and right: mirrored images would contradict them."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Sure on their own, in the languages that X-ray archives are labelled in.
SIDES = (
    frozenset({"left", "links", "gauche", "izquierda", "izquierdo", "sinistra", "sinistro"}),
    frozenset({"right", "rechts", "droite", "droit", "derecha", "derecho", "destra", "destro"}),
)
# Too short or too common alone; they count where the other side is named as well.
SHORT_SIDES = (
    frozenset({"l", "lt", "li", "sx", "izq", "lhs"}),
    frozenset({"r", "rt", "re", "dx", "der", "rhs"}),
)
SIDE_CHARACTERS = (frozenset("左"), frozenset("右"))  # part of many words: both must occur
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def side_words(names: Iterable[str]) -> tuple[str, ...]:
    """Pick the names that look like left or right, sorted.

    `names` are class names and file names. `left`, `Rechts` and the like count alone; `L`, `dx`
    and the Chinese characters only if some name says the other side in the same way.
    """
    words = {name: frozenset(word.lower() for word in WORD.findall(name)) for name in set(names)}
    found = {name for name, parts in words.items() if parts & (SIDES[0] | SIDES[1])}
    found |= _paired(words, SHORT_SIDES)
    found |= _paired({name: frozenset(name) for name in words}, SIDE_CHARACTERS)
    return tuple(sorted(found))


def _paired(
    parts: dict[str, frozenset[str]], sides: tuple[frozenset[str], frozenset[str]]
) -> set[str]:
    left, right = ({name for name, have in parts.items() if have & side} for side in sides)
    return left | right if left and right else set()
