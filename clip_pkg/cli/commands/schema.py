"""`schema`: the JSON Schema of the config list."""

from __future__ import annotations

import argparse
import json

from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.cli.parser import Parser
from clip_pkg.config.describe import config_list_schema

SUMMARY = "print the JSON Schema of the config list, for editors"
DESCRIPTION = "Print the JSON Schema of the config list. Editors complete and check with it."


def add_arguments(parser: Parser) -> None:
    """Take no arguments."""
    del parser


def run(parsed: argparse.Namespace) -> int:
    """Print it."""
    del parsed
    print(json.dumps(config_list_schema(), ensure_ascii=False, indent=2))
    return ExitCode.DONE
