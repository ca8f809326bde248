"""`prefetch`: pretrained weights for machines without a network."""

from __future__ import annotations

import argparse

from clip_pkg.base.errors import WeightsError
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.cli.parser import Parser, given_path
from clip_pkg.config.load import load_configs

SUMMARY = "download the pretrained weights that the configs name"
DESCRIPTION = (
    "Download the pretrained weights that the configs name, for machines that train without a "
    "network."
)


def add_arguments(parser: Parser) -> None:
    """Add the config file."""
    parser.require("--config-file")
    parser.add_argument("--config-file", type=given_path, metavar="FILE")


def run(parsed: argparse.Namespace) -> int:
    """Download what is missing."""
    configs = load_configs(parsed.config_file).configs
    from clip_pkg.launch.probe import start_child_probe

    problems = start_child_probe(configs, fetch=True).problems()
    if problems:
        raise WeightsError("\n  ".join(["some weights could not be downloaded:", *problems]))
    print(f"All weights of {len(configs)} config(s) are on this machine.")
    return ExitCode.DONE
