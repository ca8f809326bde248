"""What the commands that use trained models share: arguments, finding images, loading, notices."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clip_pkg.base.errors import UserError
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.cli.parser import Parser, given_path

if TYPE_CHECKING:
    from clip_pkg.inference.ensemble import Ensemble
    from clip_pkg.inference.held_out import HeldOut
    from clip_pkg.inference.images import FoundImages
    from clip_pkg.launch.terminal import Terminal
    from clip_pkg.study.decoding import UnreadableImage
    from clip_pkg.study.inspection import OnProgress

EVERY_FOLD = (
    "a config's result folder, for all its finished folds; the folder of a fold or refit; or a "
    "checkpoint, as .pth or as an export to safetensors"
)
DEVICE = re.compile(r"cpu|mps|cuda(:[0-9]+)?")


def add_model(parser: Parser, text: str = EVERY_FOLD) -> None:
    """Add the argument that names the model."""
    parser.add_argument("model", type=given_path, metavar="MODEL", help=text)


def add_images(
    parser: Parser,
    text: str = "image files, folders (with their sub-folders), or CSV files with a column `path`",
) -> None:
    """Add the flags for images, described by `text`, and the device."""
    parser.add_argument(
        "--images",
        nargs="+",
        type=given_path,
        metavar="PATH",
        help=text,
    )
    parser.add_argument(
        "--device",
        type=_device,
        metavar="DEVICE",
        help="cpu, cuda:0 or mps (default: the first GPU, if there is one)",
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be read and list them; without it they are an error",
    )


def add_out_of_fold(parser: Parser, done: str) -> None:
    """Add the flag for the config's own images, each `done` by the fold that held it out."""
    parser.add_argument(
        "--out-of-fold",
        action="store_true",
        help="--images is the data folder or CSV file of the training: each image of a config is "
        f"{done} by the one fold (with n_repeats: of each repeat) that was not trained on it",
    )


def _device(text: str) -> str:
    if not DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a device; write cpu, cuda:0 or mps")
    return text


def images_of(parsed: argparse.Namespace, terminal: Terminal) -> FoundImages:
    """List what `--images` names."""
    from clip_pkg.inference.images import find_images

    with terminal.waiting("Finding images"):
        found = find_images(parsed.images)
    terminal.notes(found.notices)
    return found


def held_out_of(parsed: argparse.Namespace, terminal: Terminal) -> HeldOut:
    """List the config's own images, with the fold that held out each."""
    from clip_pkg.inference.held_out import held_out_images

    if len(parsed.images) != 1:
        raise UserError(
            "--out-of-fold: --images takes one path, the data folder or CSV file of the training"
        )
    with terminal.counting("Checking images") as progress:
        found = held_out_images(ConfigPaths(parsed.model), parsed.images[0], progress=progress)
    terminal.notes(found.notices)
    return found


def load(checkpoints: Sequence[Path], device: str | None, terminal: Terminal) -> Ensemble:
    """Load the models and print which they are."""
    from clip_pkg.inference.loading import load_ensemble

    with terminal.waiting("Loading the model"):
        ensemble = load_ensemble(checkpoints, device)
    first, models = ensemble.folds[0], [fold.label for fold in ensemble.folds]
    mean = "the mean of " if len(models) > 1 else ""
    terminal.line(f"Model: {first.name}, {mean}{', '.join(models)}; {first.device}")
    return ensemble


@contextmanager
def decoding(terminal: Terminal, what: str) -> Iterator[OnProgress]:
    """Show the progress of work that decodes images.

    Pillow's warnings (size, odd EXIF) are silenced: such images are refused or decode correctly.
    """
    with warnings.catch_warnings(), terminal.counting(what) as progress:
        warnings.filterwarnings("ignore", module="PIL")
        yield progress


def note_unreadable(terminal: Terminal, unreadable: Sequence[UnreadableImage]) -> None:
    """List the images that were left out."""
    if unreadable:
        terminal.note(f"{len(unreadable)} image(s) cannot be read and are left out:")
    for one in unreadable:
        terminal.line(f"  {one}", "yellow")
