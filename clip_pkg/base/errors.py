"""User-facing exceptions: each says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class UserError(Exception):
    """Invalid user input: shown as a sentence without a traceback."""


class DataError(UserError):
    """Unusable images, CSV tables, class texts or splits."""


class WeightsError(UserError):
    """Pretrained weights of a config are not available."""


class RunFolderError(UserError):
    """An output folder has content that this run must not change or cannot use."""


class DamagedFile(RunFolderError):
    """A file in an output folder is unreadable or has another content than this program writes.

    path: the file. reason: what is wrong with it, without the name and the advice.
    """

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{shown(path)} {reason}; {remedy}")
        self.path = path
        self.reason = reason


class CheckpointError(UserError):
    """A checkpoint is unreadable, unsafe, or of another model."""


class TrainingError(UserError):
    """Folds could not be trained."""


@dataclass(frozen=True)
class ConfigProblem:
    """A problem of one config.

    where: JSON path, such as `[2].loss.gamma`. line: from 1, None for values that are not from a
    file.
    """

    message: str
    where: str = ""
    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = "" if self.file is None else f"{self.file}" + (f":{self.line}" if self.line else "")
        return ": ".join(part for part in (place, self.where, self.message) if part)


class ConfigErrors(UserError):
    """All problems of all configs."""

    def __init__(self, problems: Iterable[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        assert self.problems, "ConfigErrors needs at least one problem"
        count = len(self.problems)
        head = (
            f"{count} problem{'s' if count > 1 else ''} in the configuration; nothing was started:"
        )
        lines = "\n".join(map(str, self.problems)).splitlines()
        super().__init__("\n".join([head, *(f"  {line}" for line in lines)]))


def first_line(error: BaseException) -> str:
    """The first line of a library's error, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


SHOWN = 20


class DataErrors(DataError):
    """All problems of an image set; the message shows the first 20, `problems` has all."""

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
    """Escape unprintable characters of a file or class name."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in str(name)
    )


def printable(text: object) -> str:
    """The same for a text of several lines, which stay lines."""
    return "\n".join(map(shown, str(text).split("\n")))


def some(names: Iterable[object], limit: int = 3) -> str:
    """The first few names: `a, b, c and 5 more`."""
    listed = [shown(name) for name in names]
    rest = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {rest} more" if rest > 0 else "")
