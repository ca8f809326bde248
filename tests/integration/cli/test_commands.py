"""What the command line offers is what it tells."""

from __future__ import annotations

import re

from clip_pkg.cli.arguments import COMMANDS_HELP
from clip_pkg.cli.main import COMMANDS


def test_help_names_every_command() -> None:
    assert set(re.findall(r"^  ([a-z-]+) ", COMMANDS_HELP, re.MULTILINE)) == set(COMMANDS)
