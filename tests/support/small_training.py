"""Flags of a next-item training that takes a moment, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SMALL = ["--hidden_units", "16", "--batch_size", "16", "--maxlen", "9", "--lr", "0.01"]


def result(folder: Path) -> dict[str, Any]:
    """Read `result.json`."""
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def history(folder: Path) -> dict[str, list[float]]:
    """Read `history.json`."""
    found: dict[str, list[float]] = json.loads((folder / "history.json").read_text())
    return found
