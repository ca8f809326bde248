"""How every command line is read: spellings, one-sentence errors, and kinds of values."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from clip_pkg.base.errors import UserError, shown
from clip_pkg.config.nodes import known_key

Value = TypeVar("Value")


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are one sentence.

    Flags may be written with hyphens or underscores, but not abbreviated. Unknown flags are
    reported before missing ones, so that `--data-dirr X` is not called a missing --data-dir.
    """

    def __init__(self, *, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._required: tuple[str, ...] = ()

    def require(self, *flags: str) -> None:
        """Make `parse` refuse a command line without these flags."""
        self._required = flags

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Read a command line. Raises UserError."""
        parsed, unknown = self.parse_known_args(words)
        if unknown:
            raise UserError(self._unknown(unknown[0]))
        absent = [
            flag
            for flag in self._required
            if getattr(parsed, flag.removeprefix("--").replace("-", "_")) is None
        ]
        if absent:
            self.error(f"{' and '.join(absent)} must be given")
        return parsed

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does, but hyphens and underscores in a flag are the same."""
        words = list(sys.argv[1:] if args is None else args)
        spelled = {option.replace("_", "-"): option for option in self._option_string_actions}
        end = words.index("--") if "--" in words else len(words)
        for number, word in enumerate(words[:end]):
            flag, equals, value = word.partition("=")
            if flag.startswith("--"):
                words[number] = spelled.get(flag.replace("_", "-"), flag) + equals + value
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise UserError; argparse itself would print the usage of every flag."""
        raise UserError(f"{message} (see {self.prog} --help)")

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument {word!r} (see {self.prog} --help)"
        flag = word.partition("=")[0]
        visible = [action for action in self._actions if action.help != argparse.SUPPRESS]
        known = [option for action in visible for option in action.option_strings]
        suggestion = known_key(flag.replace("_", "-"), known).replace('"', "")
        return f"unknown flag {flag}{suggestion or f' (see {self.prog} --help)'}"


def given_path(text: str) -> Path:
    """Read the path of a file or folder; `~` is the home folder, as in a shell."""
    try:
        if not text or "\0" in text:
            raise argparse.ArgumentTypeError("the path is empty or has a NUL byte; name one")
        os.fsencode(text).decode("utf-8")  # it is written into JSON files
        found = Path(text).expanduser()
        found.resolve()
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"'{shown(text)}' is not UTF-8; rename it") from None
    except RuntimeError as error:  # no such user, or a symbolic link to itself
        raise argparse.ArgumentTypeError(f"'{shown(text)}': {error}") from None
    return found


def reader(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """Make a `type=` whose ValueError argparse shows as it is, instead of hiding it."""

    def checked(text: str) -> Value:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def count(text: str, minimum: int = 0) -> int:
    """Read an integer that is at least `minimum`."""
    if not text.isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {minimum}")
    return int(text)


def positive(text: str) -> int:
    """Read an integer that is at least 1."""
    return count(text, 1)


def seconds(text: str) -> float:
    """Read a finite number of seconds, at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value
