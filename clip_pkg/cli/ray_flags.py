"""Flags of the Ray executor, and which others it cannot take."""

from __future__ import annotations

import argparse
import re

from clip_pkg.base.errors import UserError

ADDRESS = r"(ray://)?([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}"


def add_ray_flags(parser: argparse.ArgumentParser) -> None:
    """Add the group of flags that say which cluster is used."""
    group = parser.add_argument_group("Ray clusters (--executor ray)")
    group.add_argument(
        "--ray-address",
        "--ray_address",
        type=_address,
        metavar="ADDRESS",
        help="host:port or ray://host:port of a cluster; auto: the one that this machine is part "
        "of; local: one that is started here for this run (default: auto)",
    )


def _address(text: str) -> str:
    if text not in ("auto", "local") and not re.fullmatch(ADDRESS, text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of auto, local, host:port, ray://host:port"
        )
    return text


def check_ray_flags(parsed: argparse.Namespace) -> None:
    """Raise UserError for flags that do not go together."""
    if parsed.executor != "ray":
        if parsed.ray_address is not None:
            raise UserError("--ray-address is for --executor ray only; give both, or neither")
        return
    if parsed.gpus is not None or parsed.wait_for_gpu:
        raise UserError(
            "--gpus, --gpu-id and --wait-for-gpu cannot be used with --executor ray: Ray chooses "
            "the GPUs and waits for them; leave them out"
        )
    if parsed.jobs_per_gpu == "auto":
        raise UserError("--jobs-per-gpu auto cannot be used with --executor ray; give a number")
