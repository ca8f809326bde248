"""Entry point: picks a command and runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol, cast

from clip_pkg.base.errors import UserError
from clip_pkg.base.exit_codes import exit_code
from clip_pkg.base.program import program
from clip_pkg.base.streams import secure_streams
from clip_pkg.cli import commands, train
from clip_pkg.cli.parser import Parser

COMMANDS = tuple(sorted(one.name.replace("_", "-") for one in iter_modules(commands.__path__)))


class Command(Protocol):
    """What a module of `clip_pkg.cli.commands` defines."""

    SUMMARY: str
    DESCRIPTION: str

    def add_arguments(self, parser: Parser) -> None: ...

    def run(self, parsed: argparse.Namespace) -> int: ...


def command(name: str) -> Command:
    """Import the module of a command."""
    return cast("Command", import_module(f"clip_pkg.cli.commands.{name.replace('-', '_')}"))


def parser_of(name: str = "") -> Parser:
    """Parser of a command; without a name, that of training."""
    if not name:
        lines = [f"  {one:13} {command(one).SUMMARY}" for one in COMMANDS]
        head = f"other commands ({program()} COMMAND --help):"
        parser = Parser(
            prog=program(), description=train.DESCRIPTION, epilog="\n".join([head, *lines])
        )
        train.add_arguments(parser)
        return parser
    chosen = command(name)
    parser = Parser(prog=f"{program()} {name}", description=chosen.DESCRIPTION)
    chosen.add_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, that of this process by default; returns the exit code."""
    if arguments is None:
        secure_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words and words[0] in COMMANDS else ""

    def run() -> int:
        if not name and words and not words[0].startswith("-"):
            raise UserError(
                f"unknown command {words[0]!r}; choose from {', '.join(COMMANDS)}, or pass flags "
                "to train"
            )
        parsed = parser_of(name).parse(words)
        return command(name).run(parsed) if name else train.run(parsed)

    return exit_code(run)
