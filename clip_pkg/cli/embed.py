"""`embed`: features of images, as a trained fold computes them."""

from __future__ import annotations

import argparse
from pathlib import Path

from clip_pkg.base.errors import UserError, shown
from clip_pkg.cli.models import (
    check_device,
    load,
    look_for_held_out,
    look_for_images,
    looking,
    note,
    note_unreadable,
    use_device,
)
from clip_pkg.cli.output_file import check_target
from clip_pkg.inference.checkpoint_choice import choose_checkpoints
from clip_pkg.inference.feature_file import SUFFIXES, check_parquet, write_features
from clip_pkg.launch.terminal import Terminal


def embed(parsed: argparse.Namespace) -> int:
    """Embed images with one fold, or a config's own images each with the fold for it."""
    terminal = Terminal()
    check_device(parsed.device)
    choice = choose_checkpoints(parsed.model)
    if not parsed.out_of_fold and len(choice.checkpoints) > 1:
        raise UserError(
            f"{shown(parsed.model)} has {len(choice.checkpoints)} folds, and each has learned a "
            f"space of its own: name one of them, such as {shown(choice.checkpoints[0].parent)}, "
            "or use --out-of-fold"
        )
    output: Path = parsed.output
    check_target(output, [*parsed.images, *choice.checkpoints], SUFFIXES)
    check_parquet(output)
    if parsed.out_of_fold:
        held_out = look_for_held_out(parsed, terminal)
        device = use_device(parsed.device)
        from clip_pkg.inference import embedding  # noqa: PLC0415

        with looking(terminal, "Embedding") as progress:
            found = embedding.embed_held_out(held_out, device, progress=progress)
    else:
        note(terminal, choice.notices)
        images = look_for_images(parsed, terminal).images
        fold = load(choice.checkpoints, parsed.device, terminal).folds[0]
        from clip_pkg.inference import embedding  # noqa: PLC0415

        with looking(terminal, "Embedding") as progress:
            found = embedding.embed(
                fold, images, skip_unreadable=parsed.skip_unreadable, progress=progress
            )
    note_unreadable(terminal, found.unreadable)
    write_features(output, found.paths, found.features, found.folds, found.labels)
    count, size = found.features.shape
    terminal.line(f"Wrote {shown(output)}: {count} image(s), {size} features each.", "green")
    reader = "pandas.read_parquet" if output.suffix.lower() == ".parquet" else "numpy.load"
    terminal.line(f"{reader}({str(output)!r}) reads it; docs/using_models.md names its contents.")
    return 0
