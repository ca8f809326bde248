"""The command lines of all commands but training."""

from __future__ import annotations

import argparse
from pathlib import Path

from clip_pkg.cli.arguments import add_execution, add_inputs, add_side_folders
from clip_pkg.cli.parser import Parser, count
from clip_pkg.cli.sharing_flags import add_simulated_sharing_flags
from clip_pkg.config.flags import add_config_flags


def validate_parser() -> Parser:
    """Parser of `validate`."""
    parser = Parser(
        prog="train_clip.py validate",
        description="Check configs, images, class texts, folds and weights; nothing is written.",
        needed=("--data-dir",),
    )
    add_inputs(parser)
    return parser


def plan_parser() -> Parser:
    """Parser of `plan`."""
    parser = Parser(
        prog="train_clip.py plan",
        description="Show what a run would do: tasks, what is done already, and simulated "
        "durations. Takes the flags of a run; nothing is written.",
        needed=("--data-dir", "--output-dir"),
    )
    add_inputs(parser)
    group = parser.add_argument_group("the run")
    for name, kind, text in (
        ("--output-dir", Path, "folder of the run; finished folds in it tell how long folds take"),
        ("--cache-dir", Path, "as for the run"),
        ("--resume-from", Path, "as for the run"),
    ):
        group.add_argument(
            name, f"--{name[2:].replace('-', '_')}", type=kind, metavar="DIR", help=text
        )
    add_simulated_sharing_flags(group)
    group.add_argument(
        "--simulate",
        type=_gpus_to_simulate,
        metavar="GPUS=N",
        help="run the scheduler against simulated durations on N GPUs (default: on 1, 2, 4 and 8)",
    )
    add_config_flags(parser)
    return parser


def status_parser() -> Parser:
    """Parser of `status`."""
    parser = Parser(
        prog="train_clip.py status",
        description="Show how a run is doing: configs and folds, time left, GPU use, failures. "
        "Reads files only, so it works from any shell that sees the folder.",
    )
    parser.add_argument(
        "directory", type=Path, metavar="OUTPUT_DIR", help="the --output-dir of the run"
    )
    parser.add_argument(
        "--watch", action="store_true", help="keep showing until the run is over, or Ctrl-C"
    )
    return parser


def prefetch_parser() -> Parser:
    """Parser of `prefetch`."""
    parser = Parser(
        prog="train_clip.py prefetch",
        description="Download the pretrained weights that the configs name, for machines that "
        "train without a network.",
        needed=("--config-file",),
    )
    parser.add_argument("--config-file", "--config_file", type=Path, metavar="FILE")
    return parser


def class_texts_parser() -> Parser:
    """Parser of `class-texts`."""
    parser = Parser(
        prog="train_clip.py class-texts",
        description="Write a JSON file with a text per class, to fill in; never overwrites one.",
        needed=("--data-dir", "--output"),
    )
    parser.add_argument("--data-dir", "--data_dir", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE")
    parser.add_argument(
        "--text-template",
        "--text_template",
        default="a photo of {}",
        metavar="TEXT",
        help="with {} where the class name goes (default: %(default)s)",
    )
    return parser


def summarize_parser() -> Parser:
    """Parser of `summarize`."""
    parser = Parser(
        prog="train_clip.py summarize",
        description="Rebuild cv_summary.json from the folds' files, without training.",
    )
    parser.add_argument(
        "directory",
        type=Path,
        metavar="DIR",
        help="a config's result folder, or the folder that holds several",
    )
    return parser


def compare_parser() -> Parser:
    """Parser of `compare`."""
    parser = Parser(
        prog="train_clip.py compare",
        description="Tell which config is better, and whether the difference is real. Reads the "
        "files that training wrote.",
    )
    parser.add_argument(
        "directories",
        nargs="+",
        type=Path,
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
        type=Path,
        default=[],
        metavar="FILE",
        help="write what was found: FILE.json (everything), FILE.csv (and FILE_pairs.csv, "
        "FILE_pretraining.csv), FILE.md, FILE.tex; across data sets FILE.svg or FILE.pdf, a "
        "critical-difference diagram; of pre-trainings FILE.svg, FILE.pdf or FILE.png, their "
        "curves. Files that are there are replaced",
    )
    return parser


def report_parser() -> Parser:
    """Parser of `report`."""
    parser = Parser(
        prog="train_clip.py report",
        description="Write a run as one HTML page, with its figures as SVG and PDF, a methods "
        "paragraph, a LaTeX table and the numbers as CSV, into DIR/report. Nothing is trained; a "
        "report that is there is replaced.",
    )
    parser.add_argument(
        "directory",
        type=Path,
        metavar="DIR",
        help="the --output-dir of a run, or the result folder of one config",
    )
    parser.add_argument(
        "--data-dir",
        "--data_dir",
        type=Path,
        metavar="DIR",
        help="where the images are now (default: where they were in training)",
    )
    parser.add_argument(
        "--no-images",
        "--no_images",
        action="store_true",
        help="leave out what needs images and models: the map of features and the worst mistakes",
    )
    return parser


def refit_parser() -> Parser:
    """Parser of `refit`."""
    parser = Parser(
        prog="train_clip.py refit",
        description="Train a cross-validated config on all of its images, into CONFIG_DIR/refit. "
        "No image is held out, so the model has no score; the folds' scores are the estimate. The "
        "same command goes on after an interruption.",
    )
    parser.add_argument(
        "config_dir", type=Path, metavar="CONFIG_DIR", help="a config's result folder"
    )
    parser.add_argument(
        "--epochs",
        type=_epochs,
        metavar="N",
        help="train for so long (default: the median of the folds' best epochs). The learning-rate "
        "schedule runs over these epochs",
    )
    parser.add_argument(
        "--data-dir",
        "--data_dir",
        type=Path,
        metavar="DIR",
        help="where the images are now (default: where they were); they must be the same",
    )
    group = parser.add_argument_group("where results go")
    add_side_folders(group)
    group.add_argument(
        "--overwrite", action="store_true", help="move a refit that is there aside, start anew"
    )
    add_execution(parser)
    return parser


def schema_parser() -> Parser:
    """Parser of `schema`."""
    return Parser(
        prog="train_clip.py schema",
        description="Print the JSON Schema of the config list. Editors complete and check with it.",
    )


def _epochs(text: str) -> int:
    if (number := count(text)) == 0:
        raise argparse.ArgumentTypeError("train for 1 epoch at least")
    return number


def _gpus_to_simulate(text: str) -> int:
    name, _, count = text.partition("=")
    if name.upper() != "GPUS" or not count.isdecimal() or int(count) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form GPUS=64")
    return int(count)
