"""Append-only record of what happened to each fold task, one JSON line per event."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class Ledger:
    """Appends events to a file that survives crashes: a line is written whole, in one call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, event: str, **details: Any) -> None:
        """Record `event` with the time and its details."""
        record = {"time": round(time.time(), 3), "event": event, **details}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode("utf-8"))
        finally:
            os.close(descriptor)
