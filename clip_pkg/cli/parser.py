"""What all command lines have in common: how they are read, and the kinds of values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from clip_pkg.base.errors import UserError


class Parser(argparse.ArgumentParser):
    """Takes flags only as they are written, and says what is wrong in one sentence.

    needed: flags without which nothing can be done. They are looked at after unknown words, so
    that `--data-dirr X` is told as what it is and not as a missing --data-dir.
    """

    def __init__(
        self,
        *,
        prog: str,
        description: str,
        epilog: str | None = None,
        needed: Sequence[str] = (),
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.needed = tuple(needed)

    def error(self, message: str) -> NoReturn:
        """Raise what `main` turns into a sentence; argparse itself would print all its flags."""
        raise UserError(f"{message} ({self.prog} --help explains)")

    def check_needed(self, parsed: argparse.Namespace) -> None:
        """Raise UserError naming every needed flag that was not given."""
        absent = [
            flag
            for flag in self.needed
            if getattr(parsed, flag.removeprefix("--").replace("-", "_")) is None
        ]
        if absent:
            self.error(f"{' and '.join(absent)} must be given")


def count(text: str) -> int:
    """Read a whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def seconds(text: str) -> float:
    """Read a finite number of seconds from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value
