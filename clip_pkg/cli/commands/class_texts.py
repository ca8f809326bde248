"""`class-texts`: a file of class texts to fill in."""

from __future__ import annotations

import argparse

from clip_pkg.base.errors import shown
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.cli.parser import Parser, given_path

SUMMARY = "write a class-texts file to fill in for a folder of images"
DESCRIPTION = "Write a JSON file with a text per class, to fill in; never overwrites one."


def add_arguments(parser: Parser) -> None:
    """Add the images, the file and the template."""
    parser.require("--data-dir", "--output")
    parser.add_argument("--data-dir", type=given_path, metavar="DIR")
    parser.add_argument("--output", type=given_path, metavar="FILE")
    parser.add_argument(
        "--text-template",
        default="a photo of {}",
        metavar="TEXT",
        help="with {} where the class name goes (default: %(default)s)",
    )


def run(parsed: argparse.Namespace) -> int:
    """Write the file."""
    from clip_pkg.study.class_texts import write_template
    from clip_pkg.study.scan import class_names

    classes = class_names(parsed.data_dir)
    write_template(classes, parsed.output, parsed.text_template)
    print(
        f"Wrote {shown(parsed.output)} with {len(classes)} classes; edit the texts, then set "
        "class_texts_file."
    )
    return ExitCode.DONE
