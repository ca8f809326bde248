"""`predict`: what trained folds say about images."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from clip_pkg.cli.terminal import Terminal
from clip_pkg.errors import UserError
from clip_pkg.inference.answer_file import Answers, check_target, write_answers
from clip_pkg.inference.checkpoint_choice import choose_checkpoints
from clip_pkg.inference.images import find_images
from clip_pkg.planning.decoding import UnreadableImage
from clip_pkg.planning.problems import shown

if TYPE_CHECKING:
    import torch

    from clip_pkg.inference.ensemble import Ensemble

SHOWN = 10  # images in the table
DEVICE = re.compile(r"cpu|cuda(:[0-9]+)?")


def predict(parsed: argparse.Namespace) -> int:
    """Look at images with trained folds; write a file, or show the first answers."""
    terminal = Terminal()
    if parsed.device is not None and not DEVICE.fullmatch(parsed.device):
        raise UserError(f"--device: {parsed.device!r} is no device; write cpu or cuda:0")
    choice = choose_checkpoints(parsed.model)
    output: Path | None = parsed.output
    if output is not None:
        check_target(output, [*parsed.images, *choice.checkpoints])
    with terminal.waiting("Looking for images"):
        found = find_images(parsed.images)
    for notice in (*choice.notices, *found.notices):
        terminal.line(f"NOTE: {notice}", "yellow")
    with terminal.waiting("Loading the model"):
        ensemble = load_ensemble(choice.checkpoints, parsed.device)
    terminal.line(_description(ensemble))
    images = found.images if output else found.images[:SHOWN]
    unreadable: list[UnreadableImage] = []
    with warnings.catch_warnings(), terminal.counting("Predicting") as progress:
        # What Pillow warns of (size, odd EXIF) is either refused or of no consequence here.
        warnings.filterwarnings("ignore", module="PIL")
        answers = _noting(
            ensemble.answers(images, skip_unreadable=parsed.skip_unreadable, progress=progress),
            unreadable,
        )
        if output:
            write_answers(output, ensemble.classes, answers)
        else:
            table = _table(ensemble.classes, answers)
    if unreadable:
        terminal.line(
            f"NOTE: {len(unreadable)} image(s) cannot be read and are left out:", "yellow"
        )
        for one in unreadable:
            terminal.line(f"  {one}", "yellow")
    if output:
        terminal.line(f"Wrote {shown(output)}: {len(images) - len(unreadable)} image(s).", "green")
        return 0
    terminal.console.print(table)
    terminal.line(
        f"{len(images)} of {len(found.images)} images; --output predictions.csv (or .json) writes "
        "all of them with the probability of every class."
    )
    return 0


def load_ensemble(checkpoints: Sequence[Path], device: str | None) -> Ensemble:
    """Load models onto `device`, or onto the first GPU if there is one; imports torch."""
    # Before torch is there: as in training, cuda:0 is nvidia-smi's first GPU, and threads that
    # wait do not keep the ones that decode from working.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch  # noqa: PLC0415  a wrong path is told without it

    from clip_pkg.inference.ensemble import Ensemble  # noqa: PLC0415

    torch.set_num_threads(os.cpu_count() or 1)  # as a fold that is trained on the CPU
    return Ensemble.load(checkpoints, _device(device))


def _device(wanted: str | None) -> torch.device:
    import torch  # noqa: PLC0415

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


def _description(ensemble: Ensemble) -> str:
    first = ensemble.folds[0]
    models = [fold.label for fold in ensemble.folds]
    mean = "the mean of " if len(models) > 1 else ""
    return f"Model: {first.name}, {mean}{', '.join(models)}; {first.device}"


def _noting(answers: Iterator[Answers], unreadable: list[UnreadableImage]) -> Iterator[Answers]:
    """Pass answers on and remember what could not be read."""
    for some in answers:
        unreadable += some.unreadable
        yield some


def _table(classes: Sequence[str], answers: Iterator[Answers]) -> Table:
    """One row per image, with the two likeliest classes."""
    table = Table()
    table.add_column("Image", overflow="fold")
    table.add_column("Prediction", overflow="fold")
    table.add_column("Probability", justify="right")
    table.add_column("Next", overflow="fold")
    table.add_column("Probability", justify="right")
    for some in answers:
        for image, row in zip(some.images, some.probabilities, strict=True):
            first, second = (-row).argsort(kind="stable")[:2].tolist()
            # Text, because brackets in names are no markup.
            table.add_row(
                Text(shown(image.name)),
                Text(shown(classes[first])),
                f"{row[first]:.4f}",
                Text(shown(classes[second])),
                f"{row[second]:.4f}",
            )
    return table
