"""`status`: how a run is doing."""

from __future__ import annotations

import argparse
from contextlib import nullcontext

from clip_pkg.base.streams import ending_with_reader
from clip_pkg.cli.parser import Parser, given_path

SUMMARY = "show how a run is doing, from any shell; --watch keeps showing"
DESCRIPTION = (
    "Show how a run is doing: configs and folds, time left, GPU use, failures. Reads files only, "
    "so it works from any shell that sees the folder."
)


def add_arguments(parser: Parser) -> None:
    """Add the folder and --watch."""
    parser.add_argument(
        "directory", type=given_path, metavar="OUTPUT_DIR", help="the --output-dir of the run"
    )
    parser.add_argument(
        "--watch", action="store_true", help="keep showing until the run is over, or Ctrl-C"
    )


def run(parsed: argparse.Namespace) -> int:
    """Print the state of a run."""
    from clip_pkg.launch.status import show_status

    with ending_with_reader() if parsed.watch else nullcontext():
        return show_status(parsed.directory, watch=parsed.watch)
