"""Output of the program: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import progress as bars
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from clip_pkg.base.errors import printable

NARROW = 100  # columns of a terminal below which tables leave out details
PLAIN_WIDTH = 120
MIN_PREFIX = 12  # of config names, to be worth leaving out


class PlainConsole(Console):
    """A console on which names and messages are text: no markup, no control characters.

    Cells of tables and tasks of progress bars too, whatever a file or a library is called.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class Terminal:
    """Output of the launcher; `rich` draws on a terminal, plain lines go to files and pipes."""

    def __init__(self, console: Console | None = None) -> None:
        # Files and pipes have no width; a table must not be squeezed into a guess of one.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
        self.console = console or PlainConsole(width=width)

    @classmethod
    def silent(cls) -> Terminal:
        """A terminal that shows nothing, for Python programs."""
        return cls(Console(file=io.StringIO(), quiet=True))

    @property
    def is_live(self) -> bool:
        """Whether the output is a terminal that can redraw."""
        return self.console.is_terminal

    @property
    def is_narrow(self) -> bool:
        """Whether tables leave out details."""
        return self.console.width < NARROW

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line as it is."""
        self.console.print(text, style=style or None, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print something that the user should know; a terminal gets whole words in each line."""
        self.console.print(f"NOTE: {text}", style="yellow", soft_wrap=not self.is_live)

    def notes(self, texts: Iterable[str]) -> None:
        """Print several notes."""
        for text in texts:
            self.note(text)

    def show(self, table: RenderableType) -> None:
        """Print a table."""
        self.console.print(table)

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show a progress bar for `done` of `total`; in plain output a line at the end."""
        started = time.monotonic()
        latest = (0, 0)

        def remember(done: int, total: int) -> None:
            nonlocal latest
            latest = (done, total)

        if self.is_live:
            columns = (
                bars.TextColumn("{task.description}", markup=False),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeRemainingColumn(),
            )
            with bars.Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(what, total=None)

                def show(done: int, total: int) -> None:
                    remember(done, total)
                    bar.update(task, completed=done, total=total)

                yield show
        else:
            yield remember
        if latest[1]:
            self.line(f"{what}: {latest[0]} of {latest[1]} in {time.monotonic() - started:.1f} s")

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show that work is in progress."""
        if self.is_live:
            with self.console.status(Text(what)):
                yield
        else:
            yield


def shortened(names: Sequence[str]) -> tuple[str, list[str]]:
    """Take off what all names begin with, up to an underscore, if that saves much.

    Returns it, or an empty text, and the names as they are to be shown: `…_clip` for
    `resnet18_scratch_clip_ViT-B_32_clip`.
    """
    common = os.path.commonprefix(list(names))  # noqa: RUF071 - characters are what is meant
    prefix = common[: common.rfind("_")] if "_" in common else ""
    if len(set(names)) < 2 or len(prefix) < MIN_PREFIX:
        return "", list(names)
    return prefix, [f"…{name.removeprefix(prefix)}" for name in names]


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 36 else f"{hours // 24} d {hours % 24} h"
