"""`compare`: which config is better, on the terminal and in files."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clip_pkg.base.errors import RunFolderError, UserError
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.base.files import check_output_file
from clip_pkg.base.program import program
from clip_pkg.cli.parser import Parser, given_path

if TYPE_CHECKING:
    from clip_pkg.launch.terminal import Terminal
    from clip_pkg.results.comparison_records import Comparison, DataSetComparison

SUMMARY = "test which config is better, and whether the difference is real"
DESCRIPTION = (
    "Test which config is better, and whether the difference is real. Reads the files that "
    "training wrote."
)
FIGURE_ONLY = (".png",)  # formats that tables and ranks cannot be written as
FIGURES = (".svg", ".pdf", *FIGURE_ONLY)
MAX_PAIRS = 15  # on the terminal; of more, only those of the leading config are shown


def add_arguments(parser: Parser) -> None:
    """Add the folders, the score and the files."""
    parser.add_argument(
        "directories",
        nargs="+",
        type=given_path,
        metavar="DIR",
        help="configs' result folders, or folders that hold several",
    )
    parser.add_argument(
        "--metric",
        default="balanced_acc",
        metavar="NAME",
        help="what configs are ranked and tested by: acc, balanced_acc, mAP, f1, auroc, mcc, "
        "log_loss or another score of cv_summary.json (default: %(default)s)",
    )
    parser.add_argument(
        "--epoch",
        choices=("best", "last"),
        default="best",
        help="which epoch of each fold is compared (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        nargs="+",
        type=given_path,
        default=[],
        metavar="FILE",
        help="write the comparison: FILE.json (everything), FILE.csv (and FILE_pairs.csv, "
        "FILE_pretraining.csv), FILE.md, FILE.tex; across data sets FILE.svg or FILE.pdf, a "
        "critical-difference diagram; of pre-trainings FILE.svg, FILE.pdf or FILE.png, their "
        "curves. Existing files are replaced",
    )


def run(parsed: argparse.Namespace) -> int:
    """Compare what is in the directories; show it, and write the requested files."""
    from clip_pkg.launch.terminal import Terminal
    from clip_pkg.results.comparison import compare
    from clip_pkg.results.comparison_files import WRITERS
    from clip_pkg.results.comparison_tables import rank_table
    from clip_pkg.results.tables import rich_table

    terminal = Terminal()
    outputs: list[Path] = parsed.output
    for path in outputs:
        check_output_file(path, [], (*WRITERS, *FIGURE_ONLY))
    with terminal.counting("Comparing") as progress:
        found = compare(
            parsed.directories, metric=parsed.metric, epoch=parsed.epoch, progress=progress
        )
    for one in found.data_sets:
        _show_data_set(one, found, terminal)
    if found.across is not None:
        terminal.show(rich_table(rank_table(found.across, found.metric)))
    refusals = found.reasons
    # Seeds divide the images differently; a table of pre-trainings is worth showing all the same.
    has_tables = any(one.pairs or one.pretraining for one in found.data_sets)
    damaged = any(one.is_damaged for one in found.refusals)
    if refusals and found.across is None and not has_tables and not damaged:
        raise RunFolderError("\n  ".join(["nothing can be compared:", *refusals]))
    terminal.line()
    for sentence in found.main_findings(MAX_PAIRS):
        terminal.line(f"- {sentence}.")
    for reason in refusals:
        terminal.line(f"NOT COMPARED: {reason}", "yellow")
    for path in outputs:
        for written in _write(path, found):
            terminal.line(f"Wrote {written}")
    if sum(len(one.rows) for one in found.data_sets) == 1:
        terminal.line("There is only one config; name another folder to compare it with.")
        return ExitCode.FAILED if damaged else ExitCode.DONE
    where = " ".join(str(directory) for directory in parsed.directories)
    terminal.line("Next:")
    if not outputs:
        terminal.line(f"  {program()} compare {where} --output comparison.json comparison.md")
    if found.epoch == "best":
        terminal.line(f"  {program()} compare {where} --epoch last")
    terminal.line("  docs/comparing.md explains the tests and how to cite them")
    return ExitCode.FAILED if damaged else ExitCode.DONE


def _write(path: Path, found: Comparison) -> list[Path]:
    """Write a file; a figure shows pre-trainings where there are any, else ranks."""
    from clip_pkg.results.comparison_files import write_comparison

    of_one_set = [one.pretraining for one in found.data_sets if one.pretraining]
    is_figure = path.suffix.lower() in FIGURES
    if is_figure and len(of_one_set) == 1 and found.across is None:
        from clip_pkg.report.figures.convergence import write_convergence

        write_convergence(path, of_one_set[0])
        return [path]
    if path.suffix.lower() in FIGURE_ONLY:
        raise UserError(
            f"{path}: the curves of pre-trainings need configs with one, of one set of images"
        )
    return write_comparison(path, found)


def _show_data_set(one: DataSetComparison, found: Comparison, terminal: Terminal) -> None:
    from clip_pkg.results.comparison_tables import (
        epoch_table,
        headline_table,
        leaderboard,
        pair_table,
        pretraining_table,
    )
    from clip_pkg.results.tables import rich_table

    if one.pretraining:
        terminal.show(rich_table(pretraining_table(one)))
        terminal.line(
            "Gain: points of Top-1 above the row without a pre-training; "
            "docs/contrastive.md explains the table."
        )
    terminal.show(rich_table(headline_table(one, found)))
    terminal.show(rich_table(leaderboard(one, found)))
    terminal.show(rich_table(epoch_table(one, found)))
    terminal.line(
        f"Intervals cover other {'groups of images' if one.grouped else 'images'}, not other "
        f"training runs. Epochs: {one.rows[0].epoch_choice}."
    )
    pairs = one.main_pairs(MAX_PAIRS)
    if len(pairs) < len(one.pairs):
        terminal.line(
            f"Shown are the {len(pairs)} pairs with {one.leader.name} of {len(one.pairs)}."
        )
    if pairs:
        table = pair_table(pairs, one, found)
        short = (text.replace("Difference", "Diff.") for text in table.columns)
        columns = tuple(text.replace("Corrected", "Corr.") for text in short)
        terminal.show(rich_table(replace(table, columns=columns)))  # words fit into 80 columns
