"""Exceptions for people: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class UserError(Exception):
    """A mistake in what the user gave us: shown as a sentence, no traceback; exit code 2."""

    exit_code = 2


class DataError(UserError):
    """The image folder, CSV, class texts or splits cannot be used as they are."""


class WeightsError(UserError):
    """Pretrained weights that a config asks for are not on this machine."""


class RunFolderError(UserError):
    """An output folder holds something that this run must not touch."""


class CheckpointError(UserError):
    """A checkpoint is unreadable, hostile, or belongs to another model."""


class TrainingError(UserError):
    """Folds could not be trained to their end."""


@dataclass(frozen=True)
class ConfigProblem:
    """One thing that is wrong in one config.

    `where` is the JSON path (`[2].loss.gamma`); `line` counts from 1, or is None when the value
    did not come from a file.
    """

    message: str
    where: str = ""
    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = "" if self.file is None else f"{self.file}" + (f":{self.line}" if self.line else "")
        return ": ".join(part for part in (place, self.where, self.message) if part)


class ConfigErrors(UserError):
    """Every problem of every config, found before anything starts."""

    def __init__(self, problems: Iterable[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        assert self.problems, "ConfigErrors needs at least one problem"
        count = len(self.problems)
        head = (
            f"{count} problem{'s' if count > 1 else ''} in the configuration; nothing was started:"
        )
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line of a sentence's length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


SHOWN = 20


class DataErrors(DataError):
    """Everything that is wrong with a set of images; the message shows the first 20.

    `problems` holds all of them, one sentence each, for a report.
    """

    def __init__(self, where: object, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        assert self.problems, "DataErrors needs at least one problem"
        count = len(self.problems)
        lines = [f"{count} problem{'s' if count > 1 else ''} in {shown(where)}:"]
        lines += [f"  {problem}" for problem in self.problems[:SHOWN]]
        if count > SHOWN:
            lines.append(f"  … and {count - SHOWN} more")
        super().__init__("\n".join(lines))


def shown(name: object) -> str:
    """Make a file or class name fit for one line of a terminal, whatever bytes are in it."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in str(name)
    )


def some(names: Iterable[object], limit: int = 3) -> str:
    """List the first few names: `a, b, c and 5 more`."""
    listed = [shown(name) for name in names]
    rest = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {rest} more" if rest > 0 else "")
