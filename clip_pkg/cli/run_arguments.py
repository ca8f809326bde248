"""Arguments that training shares with other commands, and the requests that they make."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from clip_pkg.base.errors import UserError
from clip_pkg.cli.parser import count, given_path, positive, reader, seconds
from clip_pkg.config.flags import config_from_flags, given_flags
from clip_pkg.config.load import LoadedConfigs, load_configs
from clip_pkg.data.cache import parse_bytes
from clip_pkg.launch.request import (
    LOG_DIR,
    RunFolders,
    StudyRequest,
)
from clip_pkg.scheduling.executors import EXECUTORS
from clip_pkg.scheduling.resources import RETRIES, STALL_TIMEOUT, Execution
from clip_pkg.scheduling.slurm_options import SlurmOptions, as_options, parse_minutes, parse_option

RAY_ADDRESS = r"auto|local|(ray://)?([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}"


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name images and configs."""
    group = parser.add_argument_group("what to train on")
    group.add_argument(
        "--data-dir",
        type=given_path,
        metavar="DIR",
        help="folder with one sub-folder of images per class, or a CSV file: path,label[,group]",
    )
    group.add_argument(  # other spellings
        "--data-path",
        "--data",
        "--dataset",
        dest="data_dir",
        type=given_path,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    group.add_argument(
        "--config-file", type=given_path, metavar="FILE", help="JSON list of configs"
    )
    group.add_argument(
        "--multi-config",
        action="store_true",
        help="train every config of the file; without it the file must hold just one",
    )
    group.add_argument(
        "--splits-file",
        type=given_path,
        metavar="FILE",
        help="use the folds of this folds_info.json instead of making new ones",
    )
    group.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be read and list them; without it they are an error",
    )


def read_configs(parsed: argparse.Namespace) -> LoadedConfigs:
    """Read the configs from the file or the flags. Raises ConfigErrors, or UserError for both."""
    if parsed.config_file is None:
        if parsed.multi_config:
            raise UserError("--multi-config needs --config-file FILE")
        return config_from_flags(parsed)
    if flags := given_flags(parsed):
        raise UserError(
            f"{', '.join(flags)}: with --config-file, settings belong in {parsed.config_file}; "
            "write them there or leave out the file"
        )
    loaded = load_configs(parsed.config_file)
    if len(loaded.configs) > 1 and not parsed.multi_config:
        names = ", ".join(config.name for config in loaded.configs)
        raise UserError(
            f"{parsed.config_file} holds {len(loaded.configs)} configs ({names}); add "
            "--multi-config to train all of them"
        )
    return loaded


def study_request(parsed: argparse.Namespace) -> StudyRequest:
    """Read the configs and say which images they are for. Raises UserError."""
    return StudyRequest(
        loaded=read_configs(parsed),
        data_dir=parsed.data_dir,
        config_file=parsed.config_file,
        splits_file=parsed.splits_file,
        skip_unreadable=parsed.skip_unreadable,
    )


def add_folders(group: Any) -> None:
    """Add the flags for logs and the cache."""
    group.add_argument(
        "--log-dir",
        type=given_path,
        default=LOG_DIR,
        metavar="DIR",
        help=f"log files, one per config and device (default: {LOG_DIR})",
    )
    group.add_argument(
        "--cache-dir",
        type=given_path,
        metavar="DIR",
        help="decoded images and features of frozen text encoders, safe to delete (default: "
        "OUTPUT_DIR/.cache)",
    )
    group.add_argument(
        "--cache-limit",
        type=reader(parse_bytes),
        metavar="SIZE",
        help="maximum size of the cache, such as 50GB, 500MiB or 0; entries of other runs are "
        "removed first, then images are decoded while training and texts encoded in each fold "
        "(default: the disk's free space)",
    )


def run_folders(parsed: argparse.Namespace, output_dir: Path) -> RunFolders:
    """Where the run writes."""
    return RunFolders(
        output_dir=output_dir,
        log_dir=parsed.log_dir,
        cache_dir=parsed.cache_dir,
        cache_limit=parsed.cache_limit,
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Add the flags for devices, clusters and failures."""
    group = parser.add_argument_group("where it runs")
    devices = group.add_mutually_exclusive_group()
    devices.add_argument(
        "--gpus", metavar="IDS", help="GPUs to use, such as 0,1 or UUIDs (default: all)"
    )
    devices.add_argument("--gpu-id", dest="gpus", metavar="ID", help="use this one GPU: --gpus ID")
    group.add_argument(
        "--folds-at-once",
        type=_jobs_per_device,
        metavar="N",
        help="folds that share a device; they compute on an NVIDIA GPU at the same time if its "
        "Multi-Process Service is running, else they take turns; auto: as many as its memory "
        "holds, measured on the first fold, and no more than there are (default: 1)",
    )
    group.add_argument(
        "--jobs-per-gpu",
        type=_jobs_per_device,
        metavar="N",
        help="the same, also with --executor ray (default: 1)",
    )
    group.add_argument(
        "--wait-for-gpu",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="how long to wait for a GPU whose memory is in use by others before it is excluded "
        "(default: 0)",
    )
    group.add_argument(
        "--executor",
        choices=list(EXECUTORS),
        default="process",
        help="; ".join(f"{name}: {row.description}" for name, row in EXECUTORS.items())
        + " (default: process)",
    )
    group = parser.add_argument_group("Ray clusters (--executor ray)")
    group.add_argument(
        "--ray-address",
        type=_ray_address,
        metavar="ADDRESS",
        help="host:port or ray://host:port of a cluster; auto: the cluster that this machine "
        "belongs to; local: a cluster started here for this run (default: auto)",
    )
    _add_slurm(parser)
    group = parser.add_argument_group("when a fold fails")
    group.add_argument(
        "--retries",
        type=count,
        default=RETRIES,
        metavar="N",
        help="further attempts at a fold that crashed, hung, or ran out of memory (then in smaller "
        f"micro-batches of the same batches) (default: {RETRIES})",
    )
    group.add_argument(
        "--fail-fast",
        action="store_true",
        help="stop everything, resumable, once a fold has failed for good",
    )
    group.add_argument(
        "--stall-timeout",
        type=seconds,
        default=STALL_TIMEOUT,
        metavar="SECONDS",
        help="a fold that finishes no step for this long counts as failed (default: "
        f"{STALL_TIMEOUT:.0f})",
    )


def _add_slurm(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("on a Slurm cluster (--executor slurm)")
    group.add_argument("--partition", metavar="NAME", help="partition (default: the cluster's)")
    group.add_argument(
        "--time",
        type=reader(parse_minutes),
        metavar="LIMIT",
        help="time limit of a job: minutes, HH:MM:SS or D-HH:MM:SS (default: the partition's). A "
        "fold that takes longer saves a checkpoint and resumes in the next job",
    )
    group.add_argument(
        "--gres",
        metavar="GRES",
        help="what a fold needs besides CPUs, such as gpu:1 or gpu:a100:1; gpus_per_task changes "
        "the number of GPUs (default: nothing, so folds train on the CPU)",
    )
    group.add_argument(
        "--slurm-option",
        type=reader(parse_option),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other long option of sbatch, such as account=mylab, qos=high, mem=16G, "
        "cpus-per-task=8 or constraint=a100; can be repeated",
    )
    group.add_argument(
        "--max-jobs",
        type=positive,
        metavar="N",
        help="maximum number of folds that are queued or running at once (default: all)",
    )


def execution(parsed: argparse.Namespace) -> Execution:
    """Where folds are trained. Raises UserError."""
    try:
        options = as_options(parsed.slurm_option)
    except ValueError as error:
        raise UserError(f"--slurm-option: {error}") from None
    return Execution(
        executor=parsed.executor,
        gpus=parsed.gpus,
        folds_at_once=parsed.folds_at_once,
        jobs_per_gpu=parsed.jobs_per_gpu,
        wait_for_gpu=parsed.wait_for_gpu,
        ray_address=parsed.ray_address,
        slurm=SlurmOptions(parsed.partition, parsed.time, parsed.gres, options, parsed.max_jobs),
        retries=parsed.retries,
        fail_fast=parsed.fail_fast,
        stall_timeout=parsed.stall_timeout,
    )


def _jobs_per_device(text: str) -> int | str:
    if text != "auto" and (not text.isdecimal() or int(text) == 0):
        raise argparse.ArgumentTypeError(f"{text!r} is neither an integer of at least 1 nor auto")
    return text if text == "auto" else int(text)


def _ray_address(text: str) -> str:
    if not re.fullmatch(RAY_ADDRESS, text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of auto, local, host:port, ray://host:port"
        )
    return text
