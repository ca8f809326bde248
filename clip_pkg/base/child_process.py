"""Child processes that take JSON lines on standard input and answer with JSON lines.

The end of its standard input tells a child that its parent is gone, however the parent ended, so
that no child is orphaned. Parents use `ChildProcess`, children `listen` and `answers`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TextIO

from clip_pkg.base.errors import UserError

SECONDS_TO_EXIT = 5.0  # after the input was closed; then the child is killed
LINES_OF_A_CRASH = 15

# Signals that ask for an end reach all processes of a terminal or of a cluster job. Some children
# must leave it to their parent to react.
END_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
if sys.platform != "win32":
    END_SIGNALS |= {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


class ChildProcess:
    """A child `python -m module`, as its parent sees it.

    output: file descriptor for all that it prints; None if standard output is for answers.
    new_session: whether it is out of reach of Ctrl-C in the terminal; `kill` then ends its own
    children, too.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        output: int | None = None,
        new_session: bool = True,
    ) -> None:
        self._new_session = new_session
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if output is None else output,
            stderr=output,
            env=env,
            start_new_session=new_session,
        )
        self._received = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def answers(self) -> IO[bytes]:
        """Standard output, for blocking reads."""
        assert self._process.stdout is not None, "only without `output`"
        return self._process.stdout

    def write(self, message: Any) -> None:
        """Send one JSON line. A child that has died is reported by `exit_code`, not here."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """Return the next answer without waiting; None if there is none yet."""
        if sys.platform == "win32" and sys.version_info < (3, 12):
            raise UserError("worker processes need Python 3.12 on Windows; use --executor inline")
        os.set_blocking(self.answers.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            self._received += os.read(self.answers.fileno(), 65536)
        line, found, rest = self._received.partition(b"\n")
        if not found:
            return None
        self._received = rest
        return json.loads(line)

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it now, and its own children if it has a session of its own."""
        with contextlib.suppress(ProcessLookupError):
            if self._new_session and sys.platform != "win32":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end. Returns the exit code; None if it still runs after `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def close(self) -> None:
        """Close its input, which ends an idle child; kill it if it does not exit."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if self.wait(SECONDS_TO_EXIT) is None:
            self.kill()
            self.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def listen(on_end: Callable[[], object]) -> queue.SimpleQueue[Any]:
    """In a child: a queue of the messages on standard input.

    At the end of the input None is put into the queue and `on_end` is called, in a thread.
    """
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        # File descriptor 0 directly: a blocked sys.stdin.readline would delay the exit of Python.
        with open(0, encoding="utf-8", closefd=False) as lines:
            for line in lines:
                messages.put(json.loads(line))
        messages.put(None)
        on_end()

    threading.Thread(target=read, daemon=True).start()
    return messages


def answers() -> TextIO:
    """In a child: a stream for answers, which stays when standard output goes elsewhere."""
    return os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)


@contextlib.contextmanager
def end_signals_blocked() -> Iterator[None]:
    """Children started within never receive the signals that ask their parent to end."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(code: int) -> str:
    """Describe the exit code of a process, negative for a signal."""
    if code < 0:
        return f"ended with signal {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def last_lines(path: Path, count: int = LINES_OF_A_CRASH) -> list[str]:
    """Last lines of a log; empty if there is no log."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
