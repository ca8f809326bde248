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
