"""The ledger survives kills and full disks, and tells the state of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.scheduling.ledger import Ledger, read_ledger


def test_a_line_that_was_cut_off_swallows_no_other(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path).append("running", config="a", fold=1, attempt=1)
    with path.open("ab") as stream:
        stream.write(b'{"time": 1, "event": "do')
    Ledger(path).append("done", config="a", fold=1, attempt=1, seconds=3.5)
    record = read_ledger(path)
    assert record.tasks["a", 1].state == "done"
    assert record.tasks["a", 1].seconds == 3.5


@given(cut=st.integers(0, 400))
def test_a_ledger_cut_anywhere_can_be_read(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append("launched", pid=1, host="h", devices=["0"], tasks=2, waiting=2)
    for event in ("queued", "running", "done"):
        ledger.append(event, config="ä", fold=1, attempt=1)
    content = path.read_bytes()
    path.write_bytes(content[: max(0, len(content) - cut)])
    states = [one.state for one in read_ledger(path).tasks.values()]
    assert states in ([], ["queued"], ["running"], ["done"])


def test_what_could_not_be_written_is_written_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append("running", config="a", fold=1)
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    ledger.append("failed", config="a", fold=1, kind="disk full", reason="no space", retry=True)
    monkeypatch.setattr(os, "write", write)
    ledger.append("running", config="a", fold=1, attempt=2)
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events == ["running", "failed", "running"]


def test_a_new_launcher_knows_that_nothing_runs_any_more(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("launched", pid=1, host="h")
    ledger.append("running", config="a", fold=1, device="0", attempt=1)
    ledger.append("done", config="a", fold=2, device="0", attempt=1)
    ledger.append("set aside", device="1", reason="lost")
    ledger.append("launched", pid=2, host="h")
    record = read_ledger(tmp_path / "ledger.jsonl")
    assert (record.launches, record.set_aside) == (2, {})
    assert {key: one.state for key, one in record.tasks.items()} == {
        ("a", 1): "waiting",
        ("a", 2): "done",
    }


def test_no_ledger_is_an_empty_run(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "none.jsonl").tasks == {}
