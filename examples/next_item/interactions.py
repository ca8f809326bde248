"""Who took what, in order, and items that somebody did not take.

Legend: U users, I items, N interactions. Items are rows 1 … I of every table; row 0 is padding.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clip_pkg.base.errors import DataError, DataErrors, shown

Ints = NDArray[np.int64]
FEWEST = 3  # interactions of a user who is evaluated: the last two are held out
MOST_DIGITS = 18  # of an id that fits into 64 bits


@dataclass(frozen=True, eq=False)
class Interactions:
    """users: [U] ids, ascending. items: [I] ids, ascending, of rows 1 … I.

    rows: [N] the item of each interaction, user by user, each user's in time order. starts: [U + 1]
    where each user's begin.
    """

    users: Ints
    items: Ints
    rows: Ints
    starts: Ints

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.items)

    @property
    def evaluated(self) -> Ints:
        """Users with held-out items, as indices."""
        return np.flatnonzero(np.diff(self.starts) >= FEWEST)

    def ends(self, held_out: int) -> Ints:
        """Where each user's history ends without the last `held_out` items, [U].

        Who has too few interactions to be evaluated keeps all.
        """
        ends = self.starts[1:].copy()
        ends[self.evaluated] -= held_out
        return ends

    def sizes(self) -> dict[str, int]:
        """How much there is."""
        return {
            "users": len(self.users),
            "evaluated_users": len(self.evaluated),
            "items": self.num_items,
            "interactions": len(self.rows),
        }

    def digest(self) -> str:
        """Hash of all there is."""
        parts = (self.users, self.items, self.rows, self.starts)
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def read_interactions(path: Path) -> Interactions:
    """Read a log of `user item` lines. Raises DataError with the numbers of lines that are not."""
    pairs, problems = [], []
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for number, line in enumerate(stream, start=1):
                words = line.split()
                if len(words) == 2 and all(map(_is_id, words)):
                    pairs.append((int(words[0]), int(words[1])))
                else:
                    text = shown(line.strip()[:60])
                    problems.append(
                        f"line {number}: {text!r} is not `user item`, two whole numbers"
                    )
    except OSError as error:
        raise DataError(
            f"{shown(path)}: {error.strerror}; --data FILE names the interactions, one "
            "`user item` pair per line"
        ) from None
    if problems:
        raise DataErrors(path, problems)
    if not pairs:
        raise DataError(f"{shown(path)} is empty")
    found = _sorted(np.array(pairs, dtype=np.int64))
    if not len(found.evaluated):
        raise DataError(
            f"{shown(path)}: no user has {FEWEST} interactions, so none can be held out"
        )
    insatiable = found.users[Unseen(found, found.ends(0)).free == 0]
    if len(insatiable):
        raise DataError(
            f"{shown(path)}: user {insatiable[0]} took every item, which leaves no negative"
        )
    return found


def _is_id(word: str) -> bool:
    return word.isdecimal() and len(word) <= MOST_DIGITS


def _sorted(pairs: Ints) -> Interactions:
    users, user = np.unique(pairs[:, 0], return_inverse=True)
    items, item = np.unique(pairs[:, 1], return_inverse=True)
    order = np.argsort(user, kind="stable")
    starts = np.searchsorted(user[order], np.arange(len(users) + 1))
    return Interactions(users, items, item[order].astype(np.int64) + 1, starts.astype(np.int64))


class Unseen:
    """Draws items that a user's history does not hold: uniformly, and without trying again.

    histories: the first `ends` − `starts` interactions of each user.
    """

    def __init__(self, interactions: Interactions, ends: Ints) -> None:
        self._width = interactions.num_items + 1
        starts = interactions.starts[:-1]
        user = np.repeat(np.arange(len(ends)), ends - starts)
        seen = np.unique(user * self._width + interactions.rows[spans(starts, ends)])
        user, item = seen // self._width, seen % self._width
        self._first = np.searchsorted(user, np.arange(len(ends) + 1))
        self.free: Ints = interactions.num_items - np.diff(self._first)
        # For each seen item, how many unseen ones come before it; ascending within a user.
        before = item - 1 - (np.arange(len(seen)) - self._first[user])
        self._keys = user * self._width + before

    def draw(self, users: Ints, uniforms: NDArray[np.float64]) -> Ints:
        """Item rows for `users` [n], one for each of `uniforms` [n] from [0, 1)."""
        place = (uniforms * self.free[users]).astype(np.int64)
        sought = users * self._width + place
        skipped = np.searchsorted(self._keys, sought, side="right") - self._first[users]
        rows: Ints = place + 1 + skipped
        return rows


def spans(starts: Ints, ends: Ints) -> Ints:
    """All whole numbers of several ranges, one range after the other."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    numbers: Ints = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return numbers
