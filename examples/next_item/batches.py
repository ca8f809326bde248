"""Sequences as tensors: batches to learn from, and histories whose next item is asked for.

Legend: B sequences, L their longest length, P positions with an item to predict, M candidates.
Sequences begin at column 0 and are padded behind their end. A causal model looks back only, so what
stands behind changes nothing, and only the padding to the longest of a group is ever computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_pkg.data.sampling import StreamKey, uniforms
from examples.next_item.interactions import Interactions, Ints, Unseen, spans

SHORT = 3  # log2 of the length up to which sequences are one group
QUESTIONS_AT_ONCE = 512
CANDIDATES_SEED = 0
CANDIDATES = 100  # sampled negatives of an evaluation, as in published ones


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of one step, in groups of similar lengths.

    groups: [b, l] item rows each, 0 behind the end. positives, negatives: [P] item rows for all
    positions, group by group and row by row.
    """

    groups: tuple[Tensor, ...]
    positives: Tensor
    negatives: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        groups = tuple(group.to(device) for group in self.groups)
        return Batch(groups, self.positives.to(device), self.negatives.to(device))


class TrainingBatches:
    """Every user's training items once per epoch, in an order and with negatives of the epoch."""

    def __init__(
        self, interactions: Interactions, *, batch_size: int, maxlen: int, seed: int
    ) -> None:
        self._interactions = interactions
        self._seed = seed
        self._batch_size = batch_size
        ends = interactions.ends(held_out=2)
        starts = np.maximum(interactions.starts[:-1], ends - 1 - maxlen)
        self._users = np.flatnonzero(ends - starts >= 2)
        self._starts, self._ends = starts, ends - 1  # of inputs; targets are one further
        self._unseen = Unseen(interactions, ends)
        lengths = np.diff(interactions.starts)
        self._user_of = np.repeat(np.arange(len(lengths)), lengths)

    def __len__(self) -> int:
        return math.ceil(self.num_sequences / self._batch_size)

    @property
    def num_sequences(self) -> int:
        """Users with something to predict in their training part."""
        return len(self._users)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Batches of `epoch`, which counts from 1."""
        rows = self._interactions.rows
        drawn = self._uniforms(epoch, "negatives", np.arange(len(rows)))
        negatives = self._unseen.draw(self._user_of, drawn)
        order = self._users[np.argsort(self._uniforms(epoch, "order", self._users))]
        for at in range(0, len(order), self._batch_size):
            users = order[at : at + self._batch_size]
            groups, places = [], []
            for group in similar(users, self._ends[users] - self._starts[users]):
                groups.append(padded(rows, self._starts[group], self._ends[group]))
                places.append(spans(self._starts[group], self._ends[group]) + 1)
            place = np.concatenate(places)
            yield Batch(
                tuple(groups), torch.from_numpy(rows[place]), torch.from_numpy(negatives[place])
            )

    def _uniforms(self, epoch: int, stream: str, index: Ints) -> NDArray[np.float64]:
        return uniforms(StreamKey(self._seed, 0, epoch, stream), index, 1)[:, 0]


def similar(users: Ints, lengths: Ints) -> Iterator[Ints]:
    """Split users into groups by the power of two that their length reaches."""
    power = np.maximum(SHORT, np.ceil(np.log2(lengths)))
    for one in np.unique(power):
        yield users[power == one]


def padded(rows: Ints, starts: Ints, ends: Ints) -> Tensor:
    """Rows of B ranges as [B, L], 0 behind the end of each."""
    place = starts[:, None] + np.arange((ends - starts).max())
    inside = place < ends[:, None]
    return torch.from_numpy(np.where(inside, rows[np.where(inside, place, 0)], 0))


@dataclass(frozen=True, eq=False)
class Question:
    """Which item comes next? Of B users at once.

    users: [B] indices. inputs: [B, L] item rows, 0 behind the end. last: [B] column of the last.
    seen: indices of (row, item) pairs that are no answer: each user's whole history. targets: [B]
    and candidates: [B, M] that none of the users took; both None where nobody knows the answer.
    """

    users: Ints
    inputs: Tensor
    last: Tensor
    seen: tuple[Tensor, Tensor]
    targets: Tensor | None
    candidates: Tensor | None


class Questions:
    """The item after each history, from which the last `held_out` items are left out.

    Without held-out items everybody is asked about, and there is no answer.
    """

    def __init__(self, interactions: Interactions, *, held_out: int, maxlen: int) -> None:
        self._interactions = interactions
        self._maxlen = maxlen
        self._ends = interactions.ends(held_out)
        users = interactions.evaluated if held_out else np.arange(len(interactions.users))
        lengths = self._ends[users] - interactions.starts[users]
        self._users = users[np.argsort(lengths, kind="stable")]
        self._candidates = self._drawn(held_out) if held_out else None

    def _drawn(self, held_out: int) -> Ints:
        """Items that each user never took; no setting of a model has a say in which."""
        key = StreamKey(CANDIDATES_SEED, 0, 0, f"candidates {held_out}")
        unseen = Unseen(self._interactions, self._interactions.ends(held_out=0))
        asked = np.repeat(self._users, CANDIDATES)
        drawn = unseen.draw(asked, uniforms(key, self._users, CANDIDATES).ravel())
        return drawn.reshape(-1, CANDIDATES)

    def __len__(self) -> int:
        return math.ceil(len(self._users) / QUESTIONS_AT_ONCE)

    def __iter__(self) -> Iterator[Question]:
        """Short histories first."""
        rows, starts = self._interactions.rows, self._interactions.starts
        for at in range(0, len(self._users), QUESTIONS_AT_ONCE):
            users = self._users[at : at + QUESTIONS_AT_ONCE]
            begin, end = starts[users], self._ends[users]
            latest = np.maximum(begin, end - self._maxlen)
            owner = np.repeat(np.arange(len(users)), end - begin)
            seen = rows[spans(begin, end)]
            drawn = self._candidates
            yield Question(
                users,
                padded(rows, latest, end),
                torch.from_numpy(end - latest - 1),
                (torch.from_numpy(owner), torch.from_numpy(seen)),
                None if drawn is None else torch.from_numpy(rows[end]),
                None if drawn is None else torch.from_numpy(drawn[at : at + len(users)]),
            )
