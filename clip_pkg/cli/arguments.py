"""The command line of training: what can be asked for, and nothing that needs torch to say so."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from clip_pkg.cli.parser import Parser, count, seconds
from clip_pkg.cli.ray_flags import add_ray_flags
from clip_pkg.cli.sharing_flags import add_sharing_flags
from clip_pkg.cli.slurm_flags import add_slurm_flags
from clip_pkg.config.flags import add_config_flags
from clip_pkg.data.cache import parse_bytes
from clip_pkg.launch.continuation import add_continuation_flags

DEFAULT_LOG_DIR = Path("logs/clip_training")
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
  compare       say which config is better, and whether the difference is real
  report        write a run as one HTML page with figures, methods and a LaTeX table
  predict       classify images with a trained config, fold or checkpoint
  explain       show where in images the evidence for a class is
  embed         write the features that a trained model computes of images
  refit         train a cross-validated config on all of its images
  export        write a model for other programs: ONNX, safetensors or open_clip
"""


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which images and configs are meant."""
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
    add_sharing_flags(group)
    group.add_argument(
        "--wait-for-gpu",
        "--wait_for_gpu",
        type=seconds,
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
        type=count,
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
        type=seconds,
        default=STALL_TIMEOUT,
        metavar="SECONDS",
        help="a fold that finishes no step for so long counts as failed (default: 1800)",
    )


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def training_parser() -> Parser:
    """Parser of the main command."""
    parser = Parser(
        prog="train_clip.py",
        description=DESCRIPTION,
        epilog=COMMANDS_HELP,
        needed=("--data-dir", "--output-dir"),
    )
    add_inputs(parser)
    group = parser.add_argument_group("where results go")
    group.add_argument(
        "--output-dir",
        "--output_dir",
        type=Path,
        metavar="DIR",
        help="results of each config go to DIR/<config name>",
    )
    add_side_folders(group)
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
    add_continuation_flags(group)
    group.add_argument(
        "--profile",
        action="store_true",
        help="show where the time goes in the first fold of each config, and write a trace of some "
        "training steps (DIR/<config name>/profile); results are the same",
    )
    add_execution(parser)
    add_config_flags(parser, exclude={"gpu_id"})
    return parser


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say on what it trains, and what happens when that fails."""
    _add_places(parser)
    add_ray_flags(parser)
    add_slurm_flags(parser)
    _add_failure_policy(parser)


def add_side_folders(group: Any) -> None:
    """Add the flags of the folders beside the results: logs and decoded pixels."""
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
        help="decoded pixels and features of frozen text encoders, safe to delete (default: "
        "OUTPUT_DIR/.cache)",
    )
    group.add_argument(
        "--cache-limit",
        "--cache_limit",
        type=_size,
        metavar="SIZE",
        help="most bytes that decoded pixels and text features may take in the cache, such as "
        "50GB, 500MiB or 0: those of other runs go first, then images are decoded while training "
        "and texts encoded in each fold (default: the disk)",
    )
