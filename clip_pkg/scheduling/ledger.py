"""The events of a run: an append-only file with one JSON line per event.

Events: `launched`, `queued` (given to a slot or cluster), `running`, `heartbeat`, `done`,
`failed`, `diverged`, `interrupted`, `cancelled` (never started), `set aside` (a device),
`finished`. Events of a fold have `config`, `fold`, `attempt`, `device`, `process` and `log_file`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Required

from typing_extensions import TypedDict

from clip_pkg.base.errors import DamagedFile
from clip_pkg.base.reading import Count, Number, parse_json, read_bytes

FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
OPEN_STATES = frozenset({"queued", "running"})


class Ledger:
    """Appends events to a file, each line in one call, so that a crash damages at most the last.

    A full disk stops no training: lines that could not be written are retried with the next one.
    Without a path, events are dropped.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._unwritten: list[bytes] = []

    def append(self, event: str, **details: Any) -> None:
        """Record `event` with the time and its details."""
        if self._path is None:
            return
        record = {"time": round(time.time(), 3), "event": event, **details}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        self._unwritten.append(line.encode("utf-8"))
        with contextlib.suppress(OSError):  # the line is still in `_unwritten`
            descriptor = os.open(self._path, FLAGS, 0o644)
            try:
                # A line that was cut off by a crash must not damage the next one.
                size = os.fstat(descriptor).st_size
                if size:
                    os.lseek(descriptor, size - 1, os.SEEK_SET)  # it is written at the end anyway
                    if os.read(descriptor, 1) != b"\n":
                        os.write(descriptor, b"\n")
                while self._unwritten:
                    encoded = self._unwritten[0]
                    if os.write(descriptor, encoded) < len(encoded):
                        break  # the disk is full
                    self._unwritten.pop(0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class Event(TypedDict, total=False):
    """What a reader needs of a line."""

    event: Required[str]
    time: Required[Number]
    configs: list[str]
    config: str
    fold: Count
    attempt: Count
    retry: bool
    device: str
    process: str
    log_file: str
    kind: str
    reason: str
    seconds: Number | None


@dataclass
class TaskRecord:
    """Latest events of a fold; `state` is the name of the last one."""

    config: str
    fold: int
    state: str = "waiting"
    attempts: int = 0
    device: str = ""
    process: str = ""
    log_file: str = ""
    kind: str = ""
    reason: str = ""
    since: float = 0.0
    seconds: float | None = None


@dataclass
class RunRecord:
    """State of a run according to its ledger.

    tasks: by (config, fold). launches: number of launchers so far. last: time of the last event, in
    seconds since 1970. configs: names, of the latest launch that trained folds; None if no launch
    says. set_aside: device → reason, of the latest launch.
    """

    tasks: dict[tuple[str, int], TaskRecord] = field(default_factory=dict)
    launches: int = 0
    last: float = 0.0
    configs: frozenset[str] | None = None
    set_aside: dict[str, str] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Update the state by the next event."""
        name = event["event"]
        self.last = max(self.last, event["time"])
        if name == "launched":
            self.launches += 1
            if "configs" in event:
                self.configs = frozenset(event["configs"])
            self.set_aside.clear()
            for record in self.tasks.values():
                # The previous launcher died while these were open.
                if record.state in OPEN_STATES:
                    record.state = "waiting"
        elif name == "set aside":
            self.set_aside[event.get("device", "")] = event.get("reason", "")
        elif "config" in event and "fold" in event:
            key = (event["config"], event["fold"])
            record = self.tasks.setdefault(key, TaskRecord(*key))
            record.state = "waiting" if name == "cancelled" or event.get("retry") else name
            record.since = event["time"]
            record.attempts = event.get("attempt", record.attempts)
            for detail in ("device", "process", "log_file", "kind", "reason", "seconds"):
                if detail in event:
                    setattr(record, detail, event[detail])


def read_ledger(path: Path) -> RunRecord:
    """Read a ledger; skips damaged lines. Empty if there is no file, or none that can be read."""
    record = RunRecord()
    try:
        lines = read_bytes(path).split(b"\n")
    except (FileNotFoundError, DamagedFile):
        return record
    for line in filter(None, lines):
        with contextlib.suppress(DamagedFile):
            record.add(parse_json(line, Event, path))
    return record
