"""What the commands that use trained models have in common: choosing, loading, telling.

No torch until a model is loaded: a wrong path is told without it.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clip_pkg.base.errors import UserError
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.inference.held_out import HeldOut, held_out_images
from clip_pkg.inference.images import FoundImages, find_images
from clip_pkg.launch.terminal import Terminal
from clip_pkg.study.decoding import UnreadableImage

if TYPE_CHECKING:
    import torch

    from clip_pkg.inference.ensemble import Ensemble
    from clip_pkg.inference.fold_classifier import FoldClassifier
    from clip_pkg.study.inspection import Progress

DEVICE = re.compile(r"cpu|cuda(:[0-9]+)?")


def check_device(wanted: str | None) -> None:
    """Refuse what is no device's name."""
    if wanted is not None and not DEVICE.fullmatch(wanted):
        raise UserError(f"--device: {wanted!r} is no device; write cpu or cuda:0")


def note(terminal: Terminal, notices: Sequence[str]) -> None:
    """Show what the user should know."""
    for notice in notices:
        terminal.line(f"NOTE: {notice}", "yellow")


def note_unreadable(terminal: Terminal, unreadable: Sequence[UnreadableImage]) -> None:
    """Name the images that were left out."""
    if unreadable:
        note(terminal, [f"{len(unreadable)} image(s) cannot be read and are left out:"])
    for one in unreadable:
        terminal.line(f"  {one}", "yellow")


def look_for_images(parsed: argparse.Namespace, terminal: Terminal) -> FoundImages:
    """List what `--images` names."""
    with terminal.waiting("Looking for images"):
        found = find_images(parsed.images)
    note(terminal, found.notices)
    return found


def look_for_held_out(parsed: argparse.Namespace, terminal: Terminal) -> HeldOut:
    """List the config's own images, and which fold did not see which."""
    if len(parsed.images) != 1:
        raise UserError(
            "--out-of-fold: --images takes one path, the data folder or CSV file of the training"
        )
    with terminal.counting("Checking images") as progress:
        held_out = held_out_images(ConfigPaths(parsed.model), parsed.images[0], progress=progress)
    note(terminal, held_out.notices)
    return held_out


def use_device(wanted: str | None) -> torch.device:
    """Import torch and find the device. Raises UserError for one that is not there."""
    # Before torch is there: as in training, cuda:0 is nvidia-smi's first GPU, and threads that
    # wait do not keep the ones that decode from working.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch  # noqa: PLC0415  a wrong path is told without it

    torch.set_num_threads(os.cpu_count() or 1)  # as a fold that is trained on the CPU
    if wanted == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None:
        return torch.device("cuda:0" if count else "cpu")
    device = torch.device(wanted)
    if (device.index or 0) >= count:
        there = f"cuda:0 to cuda:{count - 1}" if count else "no usable NVIDIA GPU"
        raise UserError(f"--device: {wanted} is not on this machine; there is {there}, and cpu")
    return device


def load_ensemble(checkpoints: Sequence[Path], device: str | None) -> Ensemble:
    """Load models onto `device`, or onto the first GPU if there is one; imports torch."""
    where = use_device(device)
    from clip_pkg.inference.ensemble import Ensemble  # noqa: PLC0415

    return Ensemble.load(checkpoints, where)


def load(checkpoints: Sequence[Path], device: str | None, terminal: Terminal) -> Ensemble:
    """Load the models and tell which they are."""
    with terminal.waiting("Loading the model"):
        ensemble = load_ensemble(checkpoints, device)
    terminal.line(_description(ensemble.folds))
    return ensemble


@contextmanager
def looking(terminal: Terminal, what: str) -> Iterator[Progress]:
    """Show progress of something that decodes images.

    What Pillow warns of (size, odd EXIF) is either refused or of no consequence here.
    """
    with warnings.catch_warnings(), terminal.counting(what) as progress:
        warnings.filterwarnings("ignore", module="PIL")
        yield progress


def _description(folds: Sequence[FoldClassifier]) -> str:
    first = folds[0]
    models = [fold.label for fold in folds]
    mean = "the mean of " if len(models) > 1 else ""
    return f"Model: {first.name}, {mean}{', '.join(models)}; {first.device}"
