"""`embed`: features of images, as a trained fold computes them."""

from __future__ import annotations

import argparse
from pathlib import Path

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.base.files import check_output_file
from clip_pkg.cli.model_arguments import (
    add_images,
    add_model,
    add_out_of_fold,
    decoding,
    held_out_of,
    images_of,
    load,
    note_unreadable,
)
from clip_pkg.cli.parser import Parser, given_path

SUMMARY = "write the features that a trained model computes of images"
DESCRIPTION = "Write the features that a trained model computes of images."


def add_arguments(parser: Parser) -> None:
    """Add the model, the images and the file."""
    parser.require("--images", "--output")
    add_model(
        parser,
        "the folder of a fold or refit, or a checkpoint; with --out-of-fold a config's result "
        "folder",
    )
    add_images(parser)
    parser.add_argument(
        "--output",
        type=given_path,
        metavar="FILE",
        help="FILE.npz or FILE.parquet; an existing file is replaced",
    )
    add_out_of_fold(parser, "embedded")


def run(parsed: argparse.Namespace) -> int:
    """Embed images with one fold, or a config's own images each with the fold that held it out."""
    from clip_pkg.inference.checkpoint_choice import choose_checkpoints
    from clip_pkg.inference.feature_file import SUFFIXES, check_parquet, write_features
    from clip_pkg.launch.terminal import Terminal

    terminal = Terminal()
    choice = choose_checkpoints(parsed.model)
    if not parsed.out_of_fold and len(choice.checkpoints) > 1:
        raise UserError(
            f"{shown(parsed.model)} has {len(choice.checkpoints)} folds, each with a feature space "
            f"of its own: name one of them, such as {shown(choice.checkpoints[0].parent)}, or use "
            "--out-of-fold"
        )
    output: Path = parsed.output
    check_output_file(output, [*parsed.images, *choice.checkpoints], SUFFIXES)
    check_parquet(output)
    if parsed.out_of_fold:
        held_out = held_out_of(parsed, terminal)
        from clip_pkg.inference.loading import choose_device

        device = choose_device(parsed.device)
        from clip_pkg.inference.embedding import embed_held_out

        with decoding(terminal, "Embedding") as progress:
            found = embed_held_out(held_out, device, progress=progress)
    else:
        terminal.notes(choice.notices)
        images = images_of(parsed, terminal).images
        fold = load(choice.checkpoints, parsed.device, terminal).folds[0]
        from clip_pkg.inference.embedding import embed

        with decoding(terminal, "Embedding") as progress:
            found = embed(fold, images, skip_unreadable=parsed.skip_unreadable, progress=progress)
    note_unreadable(terminal, found.unreadable)
    write_features(output, found.paths, found.features, found.folds, found.labels)
    count, size = found.features.shape
    terminal.line(f"Wrote {shown(output)}: {count} row(s) of {size} features.", "green")
    reader = "pandas.read_parquet" if output.suffix.lower() == ".parquet" else "numpy.load"
    terminal.line(
        f"Read it with {reader}({str(output)!r}); docs/using_models.md lists its contents."
    )
    return ExitCode.DONE
