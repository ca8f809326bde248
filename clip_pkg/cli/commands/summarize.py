"""`summarize`: cv_summary.json, rebuilt from the folds' files."""

from __future__ import annotations

import argparse

from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.cli.parser import Parser, given_path

SUMMARY = "rebuild cv_summary.json from the folds' files"
DESCRIPTION = "Rebuild cv_summary.json from the folds' files, without training."


def add_arguments(parser: Parser) -> None:
    """Add the folder."""
    parser.add_argument(
        "directory",
        type=given_path,
        metavar="DIR",
        help="a config's result folder, or the folder that holds several",
    )


def run(parsed: argparse.Namespace) -> int:
    """Rebuild the summary of one config's folder, or of every one in a folder."""
    from clip_pkg.base.errors import RunFolderError
    from clip_pkg.launch.tables import results_table
    from clip_pkg.launch.terminal import Terminal
    from clip_pkg.results.folders import left_out, result_folders
    from clip_pkg.results.summary import summarize
    from clip_pkg.study.tasks import DAMAGED

    summaries, refused = [], []
    for folder in result_folders([parsed.directory]):
        try:
            summaries.append(summarize(ConfigPaths(folder)))
        except RunFolderError as error:
            refused.append(str(error))
    if not summaries:
        raise RunFolderError("\n  ".join(["nothing can be summarised:", *refused]))
    terminal = Terminal()
    terminal.show(results_table(summaries, width=terminal.console.width))
    for summary in summaries:
        if not summary["complete"]:
            done = summary["average_results"]["n"]
            terminal.line(
                f"{summary['config']['name']} is incomplete: {', '.join(left_out(summary))}. Its "
                f"averages are over {done} of {summary['n_folds']} folds; run the training command "
                "again to resume.",
                "yellow",
            )
    for reason in refused:
        terminal.line(f"NOT SUMMARISED: {reason}", "yellow")
    damaged = refused or any(
        one["kind"] == DAMAGED for summary in summaries for one in summary["failures"].values()
    )
    return ExitCode.FAILED if damaged else ExitCode.DONE
