"""How far the trainer is from the bare model: its seconds per epoch, beside the least there can be.

    bash benchmarks/run.sh floor --write
    bash benchmarks/run.sh floor --images DIR --limit-images 640 --rows resnet18
    bash benchmarks/run.sh floor --images DIR --small-images DIR_OF_32_PX_IMAGES

The floor is the bare timm model on random tensors that are there already: forward, backward and
optimiser for as many images as an epoch trains on, and forward for those that it validates on, in
the precision and memory format in which the device does it fastest. The trainer is the real
program: cross-validated runs of `train_clip.py` with all that they do. Before and after each run
the floor is measured anew, and each fold is compared with the mean of the two.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.commands import answer
from benchmarks.image_sets import ImageSet, make_image_set
from benchmarks.results import measured_on, median_and_range, write_section
from benchmarks.trainer import TrainedFold, train
from benchmarks.utilisation import Utilisation, first_gpu
from clip_pkg.study.progress import PHASES, read_profile

OF_THE_FLOOR = ("image forward", "backward", "optimiser", "validation")
PROMPTS, FROZEN_TEXT = "prompts", "clip:ViT-B/32"
EMBED_DIM = 512
SMALL = 64  # px
CUDA_GRAPHS = {"auto": "auto", "true": True, "false": False}


@dataclass(frozen=True)
class Row:
    """What is compared; images: how many of the set, so that slow models stay affordable."""

    name: str
    encoder: str
    images: int
    img_size: int = 224
    text: str = PROMPTS

    @property
    def is_small(self) -> bool:
        """Whether it takes images as small as CIFAR's."""
        return self.img_size < SMALL

    def config(self, chosen: argparse.Namespace) -> dict[str, Any]:
        """What the trainer is told."""
        frozen = {"freeze_text_encoder": True} if self.text == FROZEN_TEXT else {}
        scratch = f"{self.text}:scratch" if self.text == FROZEN_TEXT else self.text
        return {
            "image_encoder_name": f"{self.encoder}:scratch",
            "text_encoder_name": scratch,
            **frozen,
            "img_size": self.img_size,
            "embed_dim": EMBED_DIM,
            "batch_size": chosen.batch_size,
            "epochs": chosen.epochs,
            "n_splits": chosen.folds,
            "cuda_graphs": CUDA_GRAPHS[chosen.cuda_graphs],
        }


ROWS = (
    Row("resnet18", "resnet18", 640),
    Row("resnet18-text", "resnet18", 640, text=FROZEN_TEXT),
    Row("resnet50", "resnet50", 240),
    Row("vit_small", "vit_small_patch16_224", 240),
    Row("efficientnet_b0", "efficientnet_b0", 240),
    Row("resnet18-32px", "resnet18", 1600, img_size=32),
)


@dataclass(frozen=True)
class Floor:
    """Seconds per image of the bare model."""

    format: str
    train: float
    val: float

    def seconds(self, fold: TrainedFold) -> float:
        """Of an epoch of this fold."""
        return self.train * fold.n_train + self.val * fold.n_val


@dataclass(frozen=True)
class Compared:
    """A fold of a run beside the floors before and after it."""

    fold: TrainedFold
    floors: tuple[Floor, Floor]

    @property
    def floor(self) -> float:
        """Seconds of an epoch."""
        return mean(floor.seconds(self.fold) for floor in self.floors)


@dataclass(frozen=True)
class Measured:
    """A row's image set, its folds, and seconds per epoch by phase of one that `--profile` saw."""

    row: Row
    images: ImageSet
    folds: Sequence[Compared]
    phases: Mapping[str, float]
    command_seconds: Sequence[float]
    utilisation: Utilisation


def measure(row: Row, chosen: argparse.Namespace, folder: Path) -> Measured:
    """Floor, run, floor, run, …, floor; then one run that says where its time goes."""
    source = chosen.small_images if row.is_small and chosen.small_images else chosen.images
    images = make_image_set(
        source, min(row.images, chosen.limit_images or row.images), folder / "images"
    )
    n_val = max(1, images.size // chosen.folds)
    words = ["-m", "benchmarks.floor_side", row.encoder, "--device", chosen.device]
    words += ["--img-size", str(row.img_size), "--batch-size", str(chosen.batch_size)]
    words += ["--outputs", str(EMBED_DIM), "--train", str(images.size - n_val), "--val", str(n_val)]

    def bare(form: str | None = None) -> Floor:
        told = answer([*words, *(["--format", form] if form else [])], chosen.device)
        per_image = told["train_seconds"] / (images.size - n_val), told["val_seconds"] / n_val
        return Floor(told["format"], *per_image)

    before = bare()
    folds: list[Compared] = []
    commands: list[float] = []
    run = None
    utilisation = Utilisation(first_gpu(chosen.device))
    for number in range(chosen.rounds):
        with utilisation.sampled():
            run = train(images.folder, row.config(chosen), folder / f"run{number}", chosen.device)
        after = bare(before.format)
        folds += [Compared(fold, (before, after)) for fold in run.folds]
        commands.append(run.command_seconds)
        before = after
    assert run is not None, "at least one round"
    once = {**row.config(chosen), "use_cv": False, "epochs": chosen.epochs + 1}
    profiled = train(images.folder, once, folder / "profiled", chosen.device, profile=True)
    profile = read_profile(profiled.folder / "profile/fold_1.json")
    assert profile is not None, "a run with --profile leaves one"
    epochs = profile.last_epoch - profile.first_epoch + 1
    phases = {name: seconds / epochs for name, seconds in profile.seconds.items()}
    return Measured(row, images, folds, phases, commands, utilisation)


HEAD = """\
| encoder | text | px | images | floor, s | in | epoch, s | epoch ÷ floor | fold ÷ floor | n |
|---|---|--:|--:|--:|---|--:|--:|--:|--:|"""


def line(measured: Measured) -> str:
    """One line of the table of ratios."""
    row, folds = measured.row, measured.folds
    cells = [
        f"`{row.encoder}`",
        "learned prompts" if row.text == PROMPTS else f"`{row.text}`, frozen",
        str(row.img_size),
        f"{folds[0].fold.n_train} + {folds[0].fold.n_val}",
        median_and_range([one.floor for one in folds]),
        folds[0].floors[0].format,
        median_and_range([one.fold.per_epoch for one in folds]),
        f"**{median_and_range([one.fold.per_epoch / one.floor for one in folds])}**",
        median_and_range([one.fold.share / one.floor for one in folds]),
        str(len(folds)),
    ]
    return "| " + " | ".join(cells) + " |"


def phase_lines(every: Sequence[Measured]) -> list[str]:
    """Table of the parts of a fold, in milliseconds per epoch."""
    names = [*OF_THE_FLOOR, *(name for name in PHASES if name not in OF_THE_FLOOR), "other"]
    lines = [
        "| | " + " | ".join(f"`{one.row.name}`" for one in every) + " |",
        "|---|" + "--:|" * len(every),
    ]
    for name in names:
        cells = []
        for one in every:
            seconds, total = one.phases.get(name, 0.0), sum(one.phases.values())
            cells.append(f"{1e3 * seconds:,.0f} ({100 * seconds / total:.1f} %)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def report(every: Sequence[Measured], chosen: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    sets = dict.fromkeys(one.images.described for one in every)
    return "\n".join(
        [
            f"## Distance from the bare model on {chosen.device}",
            "",
            measured_on(torch.device(chosen.device), ["timm", "open_clip_torch"]),
            "",
            f"`train_clip.py`, {chosen.folds} folds of {chosen.epochs} epochs, batch "
            f"{chosen.batch_size}, CLIP loss, standard augmentation, `cuda_graphs` "
            f"{chosen.cuda_graphs}, everything else as it is by "
            "default; initial weights are random. Median and range over n folds; the images of a "
            "fold are for training + validation. Fewer images where a model is slow: what happens "
            "once an epoch weighs more there than on a user's set.",
            "",
            "- floor: one epoch of the bare model (forward, backward, fused AdamW; forward alone "
            "in validation) on resident random tensors, in the fastest of fp32 and bf16 autocast "
            "with either memory format.",
            "- epoch: training, data, augmentation, loss, validation and its scores; what "
            "`epoch_seconds` in `history.json` counts.",
            "- fold: all seconds of the fold after imports, divided by its epochs: also building "
            "the model, scoring it untrained (one validation pass), checkpoints, TensorBoard, "
            f"predictions. With {chosen.epochs} epochs these weigh more than with the usual 100.",
            f"- images: {'; '.join(sets)}.",
            "",
            HEAD,
            *map(line, every),
            "",
            "Whole commands, with imports, checks and the decoding of all images, took "
            + ", ".join(
                f"{median_and_range(one.command_seconds, digits=0)} s (`{one.row.name}`)"
                for one in every
            )
            + ".",
            *(
                [
                    "",
                    "GPU utilisation over whole commands: "
                    + "; ".join(f"{one.utilisation} (`{one.row.name}`)" for one in every)
                    + ".",
                ]
                if chosen.device == "cuda"
                else []
            ),
            "",
            "Where the time goes, in ms per epoch and percent, as `--profile` tells of one more "
            f"run on a hold-out. The first {len(OF_THE_FLOOR)} lines are what the floor does, too; "
            "`optimiser` is also clipping and the check for finite numbers, `validation` also "
            "the data and scores of it.",
            "",
            *phase_lines(every),
        ]
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="floor", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [row.name for row in ROWS]
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=Path, help="folder of class folders; left out: drawn")
    parser.add_argument("--small-images", type=Path, help=f"the same for rows below {SMALL} px")
    parser.add_argument("--limit-images", type=int, metavar="N", help="at most so many in any row")
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="ROW")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--cuda-graphs",
        choices=list(CUDA_GRAPHS),
        default="auto",
        help="of the trainer; the profiled run has none",
    )
    parser.add_argument("--rounds", type=int, default=1, help="runs of all folds per row")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    chosen = parse(arguments)
    every = []
    for row in ROWS:
        if row.name in chosen.rows:
            with tempfile.TemporaryDirectory() as folder:
                every.append(measure(row, chosen, Path(folder)))
            print(line(every[-1]), file=sys.stderr, flush=True)
    section = report(every, chosen)
    if chosen.write:
        write_section(f"floor-{chosen.device}", section)
    else:
        print(section)


if __name__ == "__main__":
    main()
