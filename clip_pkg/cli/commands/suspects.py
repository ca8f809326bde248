"""`suspects`: images whose label is probably wrong."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from clip_pkg.base.errors import shown
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.base.files import check_output_file, write_text
from clip_pkg.base.program import program
from clip_pkg.cli.model_arguments import decoding
from clip_pkg.cli.parser import Parser, given_path, positive

if TYPE_CHECKING:
    from rich.table import Table

    from clip_pkg.results.suspects import Suspects

SUMMARY = "list the images whose label is probably wrong"
DESCRIPTION = (
    "List the images whose label is probably wrong, the most suspicious first: by confident "
    "learning from the out-of-fold probabilities, by near copies with another label, and those "
    "that no config predicts correctly. Nothing is changed."
)
SUFFIXES = (".csv", ".html")
TOP = 20  # on the terminal
TOP_ON_PAGE = 200  # thumbnails have about 50 kB each


def add_arguments(parser: Parser) -> None:
    """Add the folder, the files and the number of images."""
    parser.add_argument(
        "directory",
        type=given_path,
        metavar="DIR",
        help="a config's result folder, or a folder with several, whose probabilities are averaged",
    )
    parser.add_argument(
        "--output",
        nargs="+",
        type=given_path,
        default=[],
        metavar="FILE",
        help="write FILE.csv, with an empty column `corrected_label` to fill in, or FILE.html, a "
        "page with thumbnails; existing files are replaced",
    )
    parser.add_argument(
        "--top",
        type=positive,
        metavar="N",
        help=f"list at most N images (default: {TOP} on the terminal, {TOP_ON_PAGE} in FILE.html, "
        "all in FILE.csv)",
    )
    parser.add_argument(
        "--data-dir",
        type=given_path,
        metavar="DIR",
        help="where the images are now, for thumbnails (default: where they were in training)",
    )


def run(parsed: argparse.Namespace) -> int:
    """Show the suspects and write the requested files."""
    from clip_pkg.launch.terminal import Terminal
    from clip_pkg.report.suspects import suspects_page
    from clip_pkg.results.suspects import CAVEAT, CSV_COLUMNS, REASONS, suspects_in
    from clip_pkg.results.tables import csv_text

    terminal = Terminal()
    outputs: list[Path] = parsed.output
    for path in outputs:
        check_output_file(path, [], SUFFIXES)
    with terminal.waiting("Reading predictions"):
        found = suspects_in(parsed.directory)
    terminal.notes(found.notices)
    if not found.ranked:
        terminal.line(f"None of the labels of {found.n_images} images is suspect.", "green")
    else:
        terminal.show(_table(found, parsed.top or TOP))
        for reason, words in REASONS.items():
            if count := sum(reason in one.reasons for one in found.ranked):
                terminal.line(f"{reason}: {words} ({count})")
        terminal.line(CAVEAT)
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".csv":
            write_text(path, csv_text(found.csv_rows(parsed.top), CSV_COLUMNS))
        else:
            with decoding(terminal, "Making thumbnails"):
                page, missing = suspects_page(found, parsed.top or TOP_ON_PAGE, parsed.data_dir)
            write_text(path, page)
            terminal.notes(missing)
        terminal.line(f"Wrote {shown(path)}", "green")
    if found.ranked:
        terminal.line("Next:")
        if outputs:
            terminal.line(
                "  correct the wrong labels (move the images, or edit the CSV file of --data-dir), "
                "then train into a new --output-dir"
            )
        else:
            where = shown(shlex.quote(str(parsed.directory)))
            terminal.line(f"  {program()} suspects {where} --output suspects.html suspects.csv")
        terminal.line("  docs/suspects.md explains the ranking")
    return ExitCode.FAILED if found.damaged else ExitCode.DONE


def _table(found: Suspects, top: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    of = "" if len(found.configs) == 1 else f", mean of {len(found.configs)} configs"
    count = len(found.ranked)
    labels = "1 suspected label" if count == 1 else f"{count} suspected labels"
    table = Table(title=f"{labels} among {found.n_images} images{of}")
    for name in ("#", "Image", "Label", "p", "Suggested", "p", "Reason"):
        is_number = name in ("#", "p")
        table.add_column(
            name,
            overflow="fold",
            justify="right" if is_number else "left",
            no_wrap=is_number or name == "Reason",
        )
    for rank, one in enumerate(found.ranked[:top], start=1):
        reasons = [reason for reason in one.reasons if reason != "misclassified"]
        # Text, because brackets in names are not markup.
        table.add_row(
            str(rank),
            Text(shown(one.path)),
            Text(shown(one.label)),
            f"{one.p_label:.2f}",
            Text(shown(one.suggested_label)),
            f"{one.p_suggested:.2f}",
            ", ".join(reasons or one.reasons),
        )
    return table
