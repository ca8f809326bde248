"""Which of several failed processes is reported as the cause."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from clip_pkg.base.child_process import END_SIGNALS, end_signals_blocked
from clip_pkg.study.identity import Identity
from clip_pkg.study.tasks import FailureKind, FoldFailure
from clip_pkg.training.rank_processes import cause

KILLED, ABORTED = -signal.SIGKILL, -signal.SIGABRT


def report(kind: FailureKind, reason: str = "") -> dict[str, Any]:
    failure = FoldFailure(Identity("c", "d", "s", "t", "k"), 1, kind, reason)
    return {"state": "failed", "failure": asdict(failure)}


@pytest.mark.parametrize(
    ("kinds", "vanished", "expected"),
    [
        (["out of memory", "error"], {}, "out of memory"),
        (["error", "out of memory"], {}, "out of memory"),  # the other one was quicker to tell
        (["diverged", "diverged"], {}, "diverged"),
        (["error"], {1: KILLED}, 1),  # its death broke a connection
        (["error"], {1: ABORTED}, "error"),  # it aborted when a connection broke
        ([], {0: ABORTED}, 0),
        ([], {0: None, 2: KILLED}, 2),  # the first one has not noticed yet
        (["out of memory"], {0: KILLED}, "out of memory"),
    ],
)
def test_the_first_cause_is_told(
    kinds: list[FailureKind], vanished: Mapping[int, int | None], expected: str | int
) -> None:
    found = cause([report(kind) for kind in kinds], vanished)
    assert (found if isinstance(found, int) else found.kind) == expected


def test_of_two_errors_the_earlier_one_is_told() -> None:
    found = cause([report("error", "first"), report("error", "second")], {})
    assert isinstance(found, FoldFailure)
    assert found.reason == "first"


def test_signals_are_held_back_only_while_ranks_are_started() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with end_signals_blocked():
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) >= END_SIGNALS
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
