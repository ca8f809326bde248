"""`demo`: two models on a small set of digits, without a download."""

from __future__ import annotations

import argparse
import shlex
from importlib import resources
from pathlib import Path

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.files import write_text
from clip_pkg.base.program import program
from clip_pkg.cli import train
from clip_pkg.cli.parser import Parser, given_path

SUMMARY = "try it: cross-validate two models on a small set of digits, without a download"
DESCRIPTION = (
    "Write 729 images of handwritten digits, a list of two configs and its class texts to FOLDER, "
    "then train the configs as the printed command does. Takes one or two minutes on two cores. "
    "The same command again resumes it."
)
FILES = ("train_clip_config.json", "class_texts_digits.json")


def add_arguments(parser: Parser) -> None:
    """Add the folder."""
    parser.add_argument(
        "folder",
        type=given_path,
        nargs="?",
        default=Path("clip_pkg_demo"),
        metavar="FOLDER",
        help="a new folder, or that of an earlier demo (default: clip_pkg_demo)",
    )


def run(parsed: argparse.Namespace) -> int:
    """Write what is missing of the demo, and train it."""
    from clip_pkg.study.demo import make_demo

    folder: Path = parsed.folder
    if folder.exists() and not (folder / FILES[0]).exists():
        raise UserError(f"{shown(folder)} exists and holds no demo; name a new folder")
    for name in FILES:
        if not (folder / name).exists():
            content = resources.files("clip_pkg.study") / "demo_files" / name
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / name, content.read_text(encoding="utf-8"))
    images = folder / "images"
    if not images.exists():
        make_demo(images)
    words = [
        *("--data-dir", str(images)),
        *("--output-dir", str(folder / "results")),
        *("--config-file", str(folder / FILES[0])),
        "--multi-config",
        *("--log-dir", str(folder / "logs")),
    ]
    print(f"{program()} {shlex.join(words)}", flush=True)
    parser = Parser(prog=program(), description="")
    train.add_arguments(parser)
    return train.run(parser.parse(words))
