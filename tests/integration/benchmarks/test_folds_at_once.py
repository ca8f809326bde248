"""`benchmarks/folds_at_once.py` compares ways that train the same folds; times are not tested."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import fold_team, fold_ways, folds_at_once, results
from benchmarks.fold_team import TEAMS, Work
from benchmarks.utilisation import Utilisation
from clip_pkg.models.precision import Precision

CPU = torch.device("cpu")
WORK = Work("test_resnet", (3, 5), 32, 4, CPU, Precision("cpu", None), threads=1)


@pytest.fixture(scope="module")
def alone() -> dict[str, list[Any]]:
    return fold_team.checked("alone", WORK)


@pytest.mark.parametrize("way", TEAMS)
def test_all_ways_train_the_same_folds(way: str, alone: dict[str, list[Any]]) -> None:
    found = fold_team.checked(way, WORK)
    for name, values in found.items():
        torch.testing.assert_close(torch.tensor(values), torch.tensor(alone[name]))
    losses = torch.tensor(found["losses"])
    assert losses.shape == (2, fold_team.CHECKED_STEPS)
    assert len(set(losses.flatten().tolist())) == losses.numel()  # no fold is another one
    assert all(found["statistics"])


@pytest.mark.parametrize("way", TEAMS)
def test_orders_are_answered_in_their_turn(
    way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = [{"order": "steps", "number": 2}, {"order": "check"}]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(map(json.dumps, orders))))
    threads = torch.get_num_threads()
    words = [way, "--folds", "0", "1", "--size", "32", "--batch", "4", "--threads", "1"]
    try:
        fold_team.main([*words, "--encoder", "test_resnet"])
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = False
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["memory"] > 1 << 20
    assert len(second["losses"]) == 2


class HereWay:
    """A way that trains in this very process."""

    def __init__(self, kind: str, teams: list[list[int]], threads: int) -> None:
        self._kind = kind
        self._works = [
            Work("test_resnet", team, 32, 4, CPU, Precision("cpu", None), threads) for team in teams
        ]

    @contextmanager
    def started(self, *_: Any) -> Iterator[None]:
        yield

    def ask(self, order: str, **_: int) -> list[dict[str, Any]]:
        if self._kind == "threads":
            raise fold_ways.NotRun("no threads today")
        if order == "check":
            return [fold_team.checked(self._kind, work) for work in self._works]
        return [{"memory": 5 << 20} for _ in self._works]


def test_it_measures_checks_and_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = tmp_path / "RESULTS.md"
    monkeypatch.setattr(fold_ways, "Way", HereWay)
    busy = Utilisation(None)
    monkeypatch.setattr(folds_at_once, "whole_runs", lambda *_: {1: (10.0, busy), 2: (7.0, busy)})
    monkeypatch.setattr(
        folds_at_once, "write_section", lambda n, b: results.write_section(n, b, written)
    )
    words = ["--folds", "2", "--sizes", "32", "--rounds", "2", "--at-once", "1", "2", "--write"]
    folds_at_once.main(words)
    body = results.section(written.read_text(encoding="utf-8"), "folds-at-once-cpu")
    assert body is not None
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert "| threads of one process | not run: no threads today | | | |" in rows
    (processes,) = [row for row in rows if row.startswith("| processes |")]
    assert processes.endswith("| 10 | 2 |")
    assert "| 2 | 7.0 | 0.70 | not sampled on a CPU |" in rows
    assert "**Fastest here**" in body


def test_ways_that_train_something_else_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherWay(HereWay):
        def ask(self, order: str, **details: int) -> list[dict[str, Any]]:
            answers = super().ask(order, **details)
            if order == "check" and self._kind == "fused":
                answers[0]["losses"][1][1] += 1e-4
            return answers

    monkeypatch.setattr(fold_ways, "Way", OtherWay)
    with pytest.raises(fold_ways.DisagreementError, match="fused program.*losses differ"):
        folds_at_once.main(["--folds", "2", "--sizes", "32", "--rounds", "1"])
