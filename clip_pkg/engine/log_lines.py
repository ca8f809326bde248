"""Log lines for `tail -f`: whole, flushed, and without carriage returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

RULE = "=" * 70


class LogLines:
    """Voice of a training."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, text: str = "") -> None:
        """Write one line now."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def banner(self, title: str, settings: Sequence[tuple[str, str]]) -> None:
        """Write a titled block of `name: value` lines."""
        for text in (RULE, title, RULE, *(f"{name}: {value}" for name, value in settings), RULE):
            self.line(text)
