"""`validate`: everything that training checks first."""

from __future__ import annotations

import argparse

from clip_pkg.cli import train
from clip_pkg.cli.parser import Parser
from clip_pkg.cli.run_arguments import run_folders, study_request

SUMMARY = "check configs, images, texts and weights without training"
DESCRIPTION = (
    "Check configs, images, class texts, folds and weights as training does; nothing is written. "
    "Takes the flags of training; with --output-dir, results that are there are compared as well."
)


def add_arguments(parser: Parser) -> None:
    """Add the flags of training, of which only --data-dir is required."""
    train.add_arguments(parser)
    parser.require("--data-dir")


def run(parsed: argparse.Namespace) -> int:
    """Print the preflight report."""
    request = study_request(parsed)
    from clip_pkg.base.errors import shown
    from clip_pkg.base.exit_codes import ExitCode
    from clip_pkg.launch.preparation import (
        check_places,
        prepare,
        show_report,
        show_texts_and_groups,
    )
    from clip_pkg.launch.probe import start_child_probe
    from clip_pkg.launch.terminal import Terminal
    from clip_pkg.study.run_folder import folders_to_replace

    terminal = Terminal()
    if parsed.output_dir is not None:
        folders = run_folders(parsed, parsed.output_dir)
        check_places(folders, [config.name for config in request.loaded.configs])
    preparation = prepare(request, start_child_probe(request.loaded.configs), terminal)
    if parsed.output_dir is not None:
        run = folders.run
        for old in folders_to_replace(run, preparation.configs, overwrite=parsed.overwrite):
            terminal.note(
                f"training with --overwrite will move {shown(old.root)} to {run.replaced}"
            )
    show_report(preparation, terminal)
    show_texts_and_groups(preparation, terminal)
    terminal.line(f"{len(preparation.configs)} config(s) can be trained on these images.", "green")
    return ExitCode.DONE
