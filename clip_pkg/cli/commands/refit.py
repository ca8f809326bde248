"""`refit`: one model of a cross-validated config, trained on all of its images."""

from __future__ import annotations

import argparse

from clip_pkg.cli.parser import Parser, given_path, positive
from clip_pkg.cli.run_arguments import add_execution, add_folders, execution, run_folders
from clip_pkg.launch.request import RefitRequest

SUMMARY = "train a cross-validated config on all of its images"
DESCRIPTION = (
    "Train a cross-validated config on all of its images, into CONFIG_DIR/refit. No image is held "
    "out, so the model has no score; the folds' scores are the estimate. Run the same command "
    "again to resume after an interruption."
)


def add_arguments(parser: Parser) -> None:
    """Add the config's folder and how it is trained."""
    parser.add_argument(
        "config_dir", type=given_path, metavar="CONFIG_DIR", help="a config's result folder"
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        metavar="N",
        help="number of epochs (default: the median of the folds' best epochs). The learning-rate "
        "schedule runs over these epochs",
    )
    parser.add_argument(
        "--data-dir",
        type=given_path,
        metavar="DIR",
        help="where the images are now (default: where they were); they must be the same",
    )
    group = parser.add_argument_group("where results go")
    add_folders(group)
    group.add_argument(
        "--overwrite", action="store_true", help="move an existing refit aside and start again"
    )
    add_execution(parser)


def run(parsed: argparse.Namespace) -> int:
    """Train on all images, or resume that."""
    config_dir = parsed.config_dir.resolve()
    request = RefitRequest(
        config_dir=config_dir,
        folders=run_folders(parsed, config_dir.parent),
        execution=execution(parsed),
        epochs=parsed.epochs,
        data_dir=parsed.data_dir,
        overwrite=parsed.overwrite,
    )
    from clip_pkg.launch.refit import refit
    from clip_pkg.launch.terminal import Terminal

    return refit(request, Terminal())
