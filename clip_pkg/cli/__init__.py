"""The command line: one module per command, which parses its arguments and shows the outcome."""

from clip_pkg.cli.main import main

__all__ = ["main"]
