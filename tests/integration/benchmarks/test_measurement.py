"""What is counted and when; how long anything takes is not tested."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import pytest
import torch

from benchmarks.measurement import Spread, interleaved, peak_bytes, spread

CPU = torch.device("cpu")


def hold_two_of_three() -> None:
    first = torch.empty(1000, dtype=torch.float32)
    second = torch.empty(500, dtype=torch.float32)
    del first
    third = torch.empty(250, dtype=torch.float32)
    del second, third


def test_peak_is_exact_and_repeatable() -> None:
    assert [peak_bytes(hold_two_of_three, CPU) for _ in range(3)] == [6000] * 3
    assert peak_bytes(lambda: None, CPU) == 0


def test_what_was_there_before_does_not_count() -> None:
    before = torch.ones(10_000)
    assert peak_bytes(before.neg_, CPU) == 0
    assert peak_bytes(lambda: before + before, CPU) == 40_000


def test_gradients_count() -> None:
    leaf = torch.ones(1000, requires_grad=True)

    def step() -> None:
        leaf.sum().backward()

    assert peak_bytes(step, CPU) >= 4000


@pytest.mark.parametrize(
    ("rounds", "seconds", "expected"), [(5, 60.0, 5), (9, 0.0, 3), (2, 0.0, 2)]
)
def test_sides_take_turns(rounds: int, seconds: float, expected: int) -> None:
    calls: list[str] = []

    def side(name: str) -> Callable[[], None]:
        def step() -> None:
            calls.append(name)
            torch.ones(200_000).sort()  # not as short as the clock's steps

        return step

    seen = interleaved([side("a"), side("b")], CPU, rounds=rounds, seconds=seconds)
    assert [len(times) for times in seen] == [expected, expected]
    assert all(time > 0 for times in seen for time in times)
    rounds_of = ["ab" if number % 2 == 0 else "ba" for number in range(expected)]
    # How often a side repeats itself depends on the machine, in which order they come does not.
    turns = [name for name, _ in groupby(calls)]
    assert turns == [name for name, _ in groupby("ab" + "".join(rounds_of))]


def test_spread() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)
