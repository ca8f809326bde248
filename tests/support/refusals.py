"""Many commands that have to be refused, in this very process; what went otherwise is collected."""

from __future__ import annotations

import contextlib
import io
import re
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from clip_pkg.cli import main


class Hang(BaseException):
    """Raised by an alarm; no handler of errors catches it."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, also a system call or the match of a regular expression."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tree(root: Path) -> set[str]:
    """Every path below a folder, without following links."""
    return {str(path) for path in root.rglob("*")}


@dataclass
class Refusals:
    """Runs commands and notes each that was not refused with a sentence, soon, without a trace.

    watched: folder in which nothing may be written. seconds: after which a command hangs.
    """

    watched: Path
    seconds: float = 8.0  # the limit is 2 s; the machines of tests are shared and slow
    count: int = 0
    failures: list[str] = field(default_factory=list)

    def refused(self, name: str, words: Sequence[object], piece: str = "", code: int = 2) -> None:
        """Run a command that has to end with `code` and a message with `piece`."""
        self.count += 1
        before = tree(self.watched)
        shown, result = self.run(words)
        if result != code:
            self.failures.append(f"{name}: {result!r} instead of {code}\n{shown[-1500:]}")
        elif "Traceback" in shown or not shown.strip():
            self.failures.append(f"{name}: no sentence\n{shown[-1500:]}")
        elif twice := re.search(r"(?m)(?:^|\s)(\S.*?): \1: ", shown):
            self.failures.append(f"{name}: says {twice[1]!r} twice\n{shown[-600:]}")
        elif piece not in shown:
            self.failures.append(f"{name}: does not say {piece!r}: {shown[-600:]}")
        elif written := sorted(tree(self.watched) ^ before):
            self.failures.append(f"{name}: wrote {written}")

    def run(self, words: Sequence[object]) -> tuple[str, Any]:
        """Run a command: what it printed, and its exit code or the exception that escaped."""
        stream = io.StringIO()
        result: Any
        begun = time.monotonic()
        try:
            with (
                contextlib.redirect_stdout(stream),
                contextlib.redirect_stderr(stream),
                at_most(self.seconds),
            ):
                result = main([str(word) for word in words])
        except SystemExit as left:  # argparse's own way out
            result = left.code
        except Hang:
            result = f"hang after {time.monotonic() - begun:.1f} s"
        except Exception as error:
            result = error
            stream.write(traceback.format_exc())
        return stream.getvalue(), result

    def check(self) -> None:
        """Assert that there was no failure, and print the number of cases."""
        print(f"{self.count} cases, {len(self.failures)} failures")
        assert not self.failures, "\n\n".join(self.failures)
