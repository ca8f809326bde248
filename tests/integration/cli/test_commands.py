"""Every command is a module with the same few names, and `--help` lists it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clip_pkg.base.errors import UserError
from clip_pkg.cli.main import COMMANDS, command, main, parser_of
from clip_pkg.cli.parser import Parser


def test_help_lists_every_command_with_its_summary() -> None:
    shown = parser_of().format_help()
    for name in COMMANDS:
        assert f"  {name:13} {command(name).SUMMARY}\n" in shown


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_starts_with_the_description(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*filter(None, [name]), "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python train_clip.py")


@pytest.fixture
def parser() -> Parser:
    made = Parser(prog="program", description="")
    made.add_argument("--with-hyphens")
    made.add_argument("--with_underscores")
    made.add_argument("--many", nargs="*")
    return made


@pytest.mark.parametrize("separator", ["-", "_"])
@pytest.mark.parametrize("equals", [True, False])
def test_hyphens_and_underscores_are_the_same(parser: Parser, separator: str, equals: bool) -> None:
    for flag in ("--with-hyphens", "--with-underscores"):
        word = "--" + flag[2:].replace("-", separator)
        value = "a_value-with_both"
        parsed = parser.parse([f"{word}={value}"] if equals else [word, value])
        assert getattr(parsed, flag[2:].replace("-", "_")) == value


def test_unknown_flags_come_before_missing_ones(parser: Parser) -> None:
    parser.require("--with-hyphens")
    with pytest.raises(UserError, match="unknown flag --with_hypens; did you mean --with-hyphens"):
        parser.parse(["--with_hypens=3"])
    with pytest.raises(UserError, match="--with-hyphens must be given"):
        parser.parse([])


def test_the_package_is_the_program() -> None:
    words = [sys.executable, "-m", "clip_pkg", "schema"]
    assert subprocess.run(words, capture_output=True, check=True).stdout.startswith(b"{")
