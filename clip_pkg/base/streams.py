"""Standard streams that can always be written to, whatever becomes of what they lead to."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ERRORS = {"stdout": "replace", "stderr": "backslashreplace"}


class _Output(io.FileIO):
    """A file descriptor; what cannot be written is dropped.

    The reader of a pipe has ended, a terminal was closed, a disk is full: none of that is a reason
    to end a training, whose logs and results are files of their own.
    """

    def write(self, content: ReadableBuffer, /) -> int:
        try:
            while (written := super().write(content)) is None:  # another process made it so
                select.select([], [self], [])
            return written
        except OSError:
            return len(memoryview(content))


def secure_streams() -> None:
    """Prepare the standard streams of this process; call it before any file is opened.

    Closed ones lead to nowhere: the next file would take their number, and get what is printed.
    Characters that the terminal does not have are replaced. The end of the terminal is ignored, as
    by nohup. Starts the program again in UTF-8 mode where file names are not UTF-8.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        shown = "ascii" if sys.stdout is None else sys.stdout.encoding
        environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": shown}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606
    for number, name in enumerate(ERRORS, start=1):
        former = getattr(sys, name)
        stream = io.TextIOWrapper(
            io.BufferedWriter(_Output(number, "w", closefd=False)),
            encoding="utf-8" if former is None else former.encoding,
            errors=ERRORS[name],
            line_buffering=True,
        )
        setattr(sys, name, stream)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def ending_with_reader() -> Iterator[None]:
    """Meanwhile, end this process when the reader of its output ends or its terminal is closed.

    Other systems than POSIX have no such signals.
    """
    names = [name for name in ("SIGPIPE", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), signal.SIG_DFL) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
