"""`completion`: a script with which a shell completes commands and flags."""

from __future__ import annotations

import argparse

from clip_pkg.base.program import program
from clip_pkg.cli.parser import Parser

SHELLS = ("bash", "zsh", "tcsh")
SUMMARY = "print a script for completion on Tab in bash, zsh or tcsh"
DESCRIPTION = f"""\
Print a script with which a shell completes commands and flags. In the shell's start-up file:
  eval "$({program()} completion bash)"
"""


def add_arguments(parser: Parser) -> None:
    """Add the shell."""
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(parsed: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from clip_pkg.base.exit_codes import ExitCode
    from clip_pkg.cli.main import COMMANDS, command, parser_of

    whole = parser_of()
    whole.prog = "clip-pkg"
    parsers = whole.add_subparsers()
    for name in COMMANDS:
        one = command(name)
        one.add_arguments(parsers.add_parser(name, description="", help=one.SUMMARY))
    print(shtab.complete(whole, shell=parsed.shell))
    return ExitCode.DONE
