"""The command line: what can be asked for, and nothing that needs torch to say so."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from clip_pkg.cli.ray_flags import add_ray_flags
from clip_pkg.cli.slurm_flags import add_slurm_flags, at_least_one
from clip_pkg.config.flags import add_config_flags
from clip_pkg.errors import UserError

DEFAULT_LOG_DIR = Path("logs/clip_training")
AUTO = "auto"
STALL_TIMEOUT = 1800.0
DESCRIPTION = """\
Cross-validate CLIP and SuperCLIP classifiers on a folder with one sub-folder of images per class.

A JSON list of configs in, one folder with cv_summary.json per config out:
  python train_clip.py --data-dir images --output-dir results \\
      --config-file train_clip_config.json --multi-config --gpus 0,1

The same without a file, every setting a flag:
  python train_clip.py --data-dir images --output-dir results \\
      --image-encoder resnet18 --text-encoder clip:ViT-B/32 --use-cv --n-splits 5
"""
COMMANDS_HELP = """\
other commands (python train_clip.py COMMAND --help):
  validate      check configs, images, texts and weights without training
  prefetch      download the pretrained weights that the configs name
  class-texts   write a class-texts file to fill in for a folder of images
  schema        print the JSON Schema of the config list, for editors
  plan          show the tasks, what is done, and how long it takes on how many GPUs
  status        show how a run is doing, from any shell; --watch keeps showing
  summarize     rebuild cv_summary.json from the folds' files
  predict       classify images with a trained config, fold or checkpoint
"""


class Parser(argparse.ArgumentParser):
    """Takes flags only as they are written, and says what is wrong in one sentence.

    needed: flags without which nothing can be done. They are looked at after unknown words, so
    that `--data-dirr X` is told as what it is and not as a missing --data-dir.
    """

    def __init__(
        self,
        *,
        prog: str,
        description: str,
        epilog: str | None = None,
        needed: Sequence[str] = (),
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.needed = tuple(needed)

    def error(self, message: str) -> NoReturn:
        """Raise what `main` turns into a sentence; argparse itself would print all its flags."""
        raise UserError(f"{message} ({self.prog} --help explains)")

    def check_needed(self, parsed: argparse.Namespace) -> None:
        """Raise UserError naming every needed flag that was not given."""
        absent = [
            flag
            for flag in self.needed
            if getattr(parsed, flag.removeprefix("--").replace("-", "_")) is None
        ]
        if absent:
            self.error(f"{' and '.join(absent)} must be given")


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to train on")
    group.add_argument(
        "--data-dir",
        "--data_dir",
        type=Path,
        metavar="DIR",
        help="folder with one sub-folder of images per class, or a CSV file: path,label[,group]",
    )
    group.add_argument(  # as older scripts call it
        "--data-path",
        "--data_path",
        dest="data_dir",
        type=Path,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    group.add_argument(
        "--config-file", "--config_file", type=Path, metavar="FILE", help="JSON list of configs"
    )
    group.add_argument(
        "--multi-config",
        "--multi_config",
        action="store_true",
        help="train every config of the file; without it the file must hold just one",
    )
    group.add_argument(
        "--splits-file",
        "--splits_file",
        type=Path,
        metavar="FILE",
        help="use the folds of this folds_info.json instead of making new ones",
    )
    group.add_argument(
        "--skip-unreadable",
        "--skip_unreadable",
        action="store_true",
        help="leave out images that cannot be read; each is named. Without it they are an error",
    )


def _add_places(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it runs")
    devices = group.add_mutually_exclusive_group()
    devices.add_argument(
        "--gpus", metavar="IDS", help="GPUs to use, such as 0,1 or UUIDs (default: all)"
    )
    devices.add_argument(
        "--gpu-id", "--gpu_id", dest="gpus", metavar="ID", help="use this one GPU: --gpus ID"
    )
    group.add_argument(
        "--jobs-per-gpu",
        "--jobs_per_gpu",
        type=_jobs_per_gpu,
        default=1,
        metavar="N",
        help="folds that share a device; auto: as many as its memory holds, measured on the first "
        "fold (default: 1)",
    )
    group.add_argument(
        "--wait-for-gpu",
        "--wait_for_gpu",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="wait so long for a GPU whose memory others use, before it is set aside (default: 0)",
    )
    group.add_argument(
        "--executor",
        choices=["process", "inline", "ray", "slurm"],
        default="process",
        help="process: a process per device; inline: this very process, so that a debugger can "
        "follow; ray: a Ray cluster; slurm: a job of a Slurm cluster per fold (default: process)",
    )


def _add_failure_policy(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("when a fold fails")
    group.add_argument(
        "--retries",
        type=_count,
        default=2,
        metavar="N",
        help="further attempts at a fold that crashed, hung, or ran out of memory (then in smaller "
        "parts of the same batches) (default: 2)",
    )
    group.add_argument(
        "--fail-fast",
        "--fail_fast",
        action="store_true",
        help="stop everything, resumable, when the first fold has failed for good",
    )
    group.add_argument(
        "--stall-timeout",
        "--stall_timeout",
        type=_seconds,
        default=STALL_TIMEOUT,
        metavar="SECONDS",
        help="a fold that finishes no step for so long counts as failed (default: 1800)",
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _jobs_per_gpu(text: str) -> int | str:
    if text == AUTO:
        return text
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number from 1 nor auto")
    return int(text)


def _gpus_to_simulate(text: str) -> int:
    name, _, count = text.partition("=")
    if name.upper() != "GPUS" or not count.isdecimal() or int(count) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form GPUS=64")
    return int(count)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def training_parser() -> Parser:
    """Parser of the main command."""
    parser = Parser(
        prog="train_clip.py",
        description=DESCRIPTION,
        epilog=COMMANDS_HELP,
        needed=("--data-dir", "--output-dir"),
    )
    _add_inputs(parser)
    group = parser.add_argument_group("where results go")
    group.add_argument(
        "--output-dir",
        "--output_dir",
        type=Path,
        metavar="DIR",
        help="results of each config go to DIR/<config name>",
    )
    group.add_argument(
        "--log-dir",
        "--log_dir",
        type=Path,
        default=DEFAULT_LOG_DIR,
        metavar="DIR",
        help=f"log files, one per config and device (default: {DEFAULT_LOG_DIR})",
    )
    group.add_argument(
        "--cache-dir",
        "--cache_dir",
        type=Path,
        metavar="DIR",
        help="decoded pixels, safe to delete (default: OUTPUT_DIR/.cache)",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="start anew where a folder holds another run, which moves to OUTPUT_DIR/replaced",
    )
    group.add_argument(
        "--resume-from",
        "--resume_from",
        type=Path,
        metavar="PATH",
        help="go on from this config's result folder elsewhere, or from a checkpoint_latest.pth. "
        "A run that was interrupted in OUTPUT_DIR goes on by itself",
    )
    group.add_argument(
        "--profile",
        action="store_true",
        help="show where the time goes in the first fold of each config, and write a trace of some "
        "training steps (DIR/<config name>/profile); results are the same",
    )
    _add_places(parser)
    add_ray_flags(parser)
    add_slurm_flags(parser)
    _add_failure_policy(parser)
    add_config_flags(parser, exclude={"gpu_id"})
    return parser


def validate_parser() -> Parser:
    """Parser of `validate`."""
    parser = Parser(
        prog="train_clip.py validate",
        description="Check configs, images, class texts, folds and weights; nothing is written.",
        needed=("--data-dir",),
    )
    _add_inputs(parser)
    return parser


def plan_parser() -> Parser:
    """Parser of `plan`."""
    parser = Parser(
        prog="train_clip.py plan",
        description="Show what a run would do: tasks, what is done already, and simulated "
        "durations. Takes the flags of a run; nothing is written.",
        needed=("--data-dir", "--output-dir"),
    )
    _add_inputs(parser)
    group = parser.add_argument_group("the run")
    for name, kind, text in (
        ("--output-dir", Path, "folder of the run; finished folds in it tell how long folds take"),
        ("--cache-dir", Path, "as for the run"),
        ("--resume-from", Path, "as for the run"),
    ):
        group.add_argument(
            name, f"--{name[2:].replace('-', '_')}", type=kind, metavar="DIR", help=text
        )
    group.add_argument(
        "--jobs-per-gpu",
        "--jobs_per_gpu",
        type=at_least_one,
        default=1,
        metavar="N",
        help="folds that share a GPU (default: 1)",
    )
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


def predict_parser() -> Parser:
    """Parser of `predict`."""
    parser = Parser(
        prog="train_clip.py predict",
        description="Classify images with what was trained.",
        needed=("--images",),
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a config's result folder, for the mean over its folds' best checkpoints; a fold's "
        "folder; or a checkpoint",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="image files, folders (with all folders in them), or CSV files with a column `path`",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write path, prediction and the probability of every class to FILE.csv or FILE.json; "
        "a file that is there is replaced. Without it the first answers are shown",
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="cpu or cuda:0 (default: the first GPU, if there is one)"
    )
    parser.add_argument(
        "--skip-unreadable",
        "--skip_unreadable",
        action="store_true",
        help="leave out images that cannot be read; each is named. Without it they are an error",
    )
    return parser


def schema_parser() -> Parser:
    """Parser of `schema`."""
    return Parser(
        prog="train_clip.py schema",
        description="Print the JSON Schema of the config list. Editors complete and check with it.",
    )
