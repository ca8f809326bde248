"""The command line: reads what is wanted, hands it to the room that does it, says how it went."""

from clip_pkg.cli.main import main

__all__ = ["main"]
