"""`report`: a run as a page, figures and texts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from clip_pkg.base.errors import shown
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.base.files import MAX_FILE_NAME, check_output_folder
from clip_pkg.base.paths import MAX_NAME_BYTES
from clip_pkg.cli.model_arguments import decoding
from clip_pkg.cli.parser import Parser, given_path

if TYPE_CHECKING:
    from clip_pkg.report.pictures import Advance, Pictures
    from clip_pkg.report.results import ConfigOutcome

SUMMARY = "write a run as one HTML page with figures, methods and a LaTeX table"
DESCRIPTION = (
    "Write a run as one HTML page, with its figures as SVG and PDF, a methods paragraph, a LaTeX "
    "table and the numbers as CSV, into DIR/report. Nothing is trained; an existing report is "
    "replaced."
)


def add_arguments(parser: Parser) -> None:
    """Add the run's folder and where its images are."""
    parser.add_argument(
        "directory",
        type=given_path,
        metavar="DIR",
        help="the --output-dir of a run, or the result folder of one config",
    )
    parser.add_argument(
        "--data-dir",
        type=given_path,
        metavar="DIR",
        help="where the images are now (default: where they were in training)",
    )
    parser.add_argument(
        "--no-images",
        action="store_true",
        help="leave out what needs images: the map of features, the worst mistakes, thumbnails",
    )


def run(parsed: argparse.Namespace) -> int:
    """Write the report; print where it is and what is missing in it."""
    from clip_pkg.launch.terminal import Terminal
    from clip_pkg.report.build import write_report
    from clip_pkg.report.pictures import make_pictures
    from clip_pkg.report.results import read_run

    terminal = Terminal()

    def pictures(outcome: ConfigOutcome, advance: Advance) -> Pictures:
        return make_pictures(outcome, parsed.data_dir, advance)

    with terminal.waiting("Reading and comparing results"):
        results = read_run(parsed.directory)
    check_output_folder(results.paths.figures, f"{'n' * MAX_NAME_BYTES}/{'n' * MAX_FILE_NAME}")
    with decoding(terminal, "Making the report") as progress:
        maker = None if parsed.no_images else pictures
        n_figures, missing = write_report(results, maker, progress, parsed.data_dir)
    if not parsed.no_images:
        terminal.notes(missing)
    terminal.line(f"Wrote {shown(results.paths.page)}, which needs no other file.", "green")
    terminal.line(
        f"  {n_figures} figures as SVG and PDF in {shown(results.paths.figures)}, "
        f"{results.paths.methods.name}, {results.paths.latex.name}, and numbers as CSV beside it"
    )
    terminal.line("Next: open the page in a browser; its Methods section has texts to paste.")
    terminal.notes(results.damaged)
    return ExitCode.FAILED if results.damaged else ExitCode.DONE
