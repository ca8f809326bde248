"""Training, the main command: it has no name and takes flags only."""

from __future__ import annotations

import argparse

from clip_pkg.base.program import program
from clip_pkg.cli.parser import Parser, given_path
from clip_pkg.cli.run_arguments import (
    add_execution,
    add_folders,
    add_study,
    execution,
    run_folders,
    study_request,
)
from clip_pkg.config.flags import add_config_flags
from clip_pkg.launch.request import TrainRequest

DESCRIPTION = f"""\
Cross-validate CLIP and SuperCLIP classifiers on a folder with one sub-folder of images per class.

A JSON list of configs in, one folder with cv_summary.json per config out:
  {program()} --data-dir images --output-dir results \\
      --config-file train_clip_config.json --multi-config --gpus 0,1

The same without a file, every setting a flag:
  {program()} --data-dir images --output-dir results \\
      --image-encoder resnet18 --text-encoder clip:ViT-B/32 --use-cv --n-splits 5
"""


def add_arguments(parser: Parser) -> None:
    """Add the flags of training."""
    parser.require("--data-dir", "--output-dir")
    add_study(parser)
    group = parser.add_argument_group("where results go")
    group.add_argument(
        "--output-dir",
        *("--out", "--output"),
        type=given_path,
        metavar="DIR",
        help="results of each config go to DIR/<config name>",
    )
    add_folders(group)
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="where a folder holds results of other settings or images, move them to "
        "OUTPUT_DIR/replaced and start anew; matching results are kept",
    )
    group.add_argument(
        "--resume-from",
        "--resume",
        type=given_path,
        metavar="PATH",
        help="resume from this config's result folder elsewhere, or from a checkpoint_latest.pth. "
        "A run that was interrupted in OUTPUT_DIR resumes without it",
    )
    for stage, what in (("pretrain", "pre-training"), ("finetune", "fine-tuning")):
        group.add_argument(
            f"--continue-{stage}",
            action="store_true",
            help=f"print where each {what} resumes, or that it starts from scratch; an interrupted "
            "run resumes without it",
        )
    group.add_argument(
        "--profile",
        action="store_true",
        help="measure where the time goes in the first fold of each config, and write a trace of "
        "some training steps (DIR/<config name>/profile); results are the same",
    )
    add_execution(parser)
    add_config_flags(parser, exclude={"gpu_id"})


def run(parsed: argparse.Namespace) -> int:
    """Train every config and fold that is not finished."""
    request = TrainRequest(
        study=study_request(parsed),
        folders=run_folders(parsed, parsed.output_dir),
        execution=execution(parsed),
        overwrite=parsed.overwrite,
        resume_from=parsed.resume_from,
        profile=parsed.profile,
        report_pretraining=parsed.continue_pretrain,
        report_training=parsed.continue_finetune,
    )
    from clip_pkg.launch.terminal import Terminal
    from clip_pkg.launch.training import train

    return train(request, Terminal())
