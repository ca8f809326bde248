"""`validate`: everything that training checks first."""

from __future__ import annotations

import argparse

from clip_pkg.cli.parser import Parser
from clip_pkg.cli.run_arguments import add_study, study_request

SUMMARY = "check configs, images, texts and weights without training"
DESCRIPTION = "Check configs, images, class texts, folds and weights; nothing is written."


def add_arguments(parser: Parser) -> None:
    """Add the flags that name images and configs."""
    parser.require("--data-dir")
    add_study(parser)


def run(parsed: argparse.Namespace) -> int:
    """Print the preflight report."""
    request = study_request(parsed)
    from clip_pkg.base.exit_codes import ExitCode
    from clip_pkg.launch.preparation import prepare, show_report
    from clip_pkg.launch.probe import start_child_probe
    from clip_pkg.launch.terminal import Terminal

    terminal = Terminal()
    preparation = prepare(request, start_child_probe(request.loaded.configs), terminal)
    show_report(preparation, terminal)
    terminal.line(f"{len(preparation.configs)} config(s) can be trained on these images.", "green")
    return ExitCode.DONE
