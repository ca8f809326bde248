"""The trainer beside the training loops of timm and open_clip.

    bash benchmarks/run.sh versus_peers --write
    bash benchmarks/run.sh versus_peers --images DIR --pairs timm-224 --rounds 5

Beside timm: a linear classifier with cross-entropy, no texts. Beside open_clip: the CLIP loss with
the same trained text tower. Same images, division, encoders, batch and epochs; each side in the
precision and memory format that is fastest for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.commands import answer
from benchmarks.image_sets import ImageSet, make_image_set
from benchmarks.results import measured_on, write_section
from benchmarks.sides import EXPLAINED, HEAD, Cost, in_turn, line
from benchmarks.trainer import train
from benchmarks.user_script import TEMPLATE
from clip_pkg.base.cores import usable_cores


@dataclass(frozen=True)
class Pair:
    """What is compared with whom; images: how many."""

    peer: str
    img_size: int
    images: int

    @property
    def name(self) -> str:
        """How the command line calls it."""
        return f"{self.peer}-{self.img_size}"

    def config(self, chosen: argparse.Namespace) -> dict[str, Any]:
        """What the trainer is told."""
        shared = {
            "image_encoder_name": f"{chosen.image_encoder}:scratch",
            "img_size": self.img_size,
            "batch_size": chosen.batch_size,
            "epochs": chosen.epochs,
            "use_cv": False,
        }
        if self.peer == "timm":
            loss = {"type": "ce", "classifier": "linear"}
            return {**shared, "text_encoder_name": "none", "loss": loss}
        text = f"clip:{chosen.text_encoder}:scratch"
        return {
            **shared,
            "text_encoder_name": text,
            "text_template": TEMPLATE,
            "loss": {"type": "clip"},
        }

    def words(self, chosen: argparse.Namespace, images: ImageSet) -> list[str]:
        """How the peer is started."""
        words = ["-m", f"benchmarks.{self.peer}_side", "--data", str(images.divided)]
        words += ["--image-encoder", chosen.image_encoder, "--img-size", str(self.img_size)]
        words += ["--batch-size", str(chosen.batch_size), "--epochs", str(chosen.epochs)]
        words += ["--workers", str(chosen.workers), "--device", chosen.device]
        return words + (["--text-encoder", chosen.text_encoder] if self.peer != "timm" else [])


PAIRS = (
    Pair("timm", 224, 320),
    Pair("timm", 32, 1600),
    Pair("open_clip", 224, 160),
    Pair("open_clip", 32, 160),
)


def compare(
    pair: Pair, chosen: argparse.Namespace, folder: Path
) -> tuple[ImageSet, str, list[tuple[Cost, Cost]]]:
    """Images of the pair, the peer's fastest format, and costs of both sides round by round."""
    images = make_image_set(
        chosen.images,
        min(pair.images, chosen.limit_images or pair.images),
        folder / "images",
        train_multiple=chosen.batch_size,
    )
    words = pair.words(chosen, images)
    form = answer([*words, "--output", str(folder / "format")], chosen.device)["format"]

    def ours(place: Path) -> Cost:
        run = train(
            images.folder,
            pair.config(chosen),
            place,
            chosen.device,
            splits_file=images.splits_file,
        )
        return Cost.of_trainer(run)

    def peer(place: Path) -> Cost:
        told = answer([*words, "--output", str(place), "--format", form], chosen.device)
        return Cost.of_answer(told)

    return images, form, in_turn(ours, peer, chosen.rounds, folder)


def report(lines: Sequence[str], remarks: Sequence[str], chosen: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    return "\n".join(
        [
            f"## Beside timm and open_clip on {chosen.device}",
            "",
            measured_on(torch.device(chosen.device), ["timm", "open_clip_torch"]),
            "",
            f"`{chosen.image_encoder}` from random weights, batch {chosen.batch_size}, "
            f"{chosen.epochs} epochs, the same images for both. Peers load with {chosen.workers} "
            "worker processes, which they start once (timm) or for each epoch (open_clip).",
            EXPLAINED,
            "",
            "- timm: a linear classifier with cross-entropy. Its wheel has no training program: "
            "the loop is the documented order of calls, made of its loader, task, optimiser, "
            "schedule, evaluator and checkpoint saver (`timm_side.py`).",
            f"- open_clip: CLIP loss with the text tower `{chosen.text_encoder}`, trained, too, by "
            "its own program `open_clip_train.main`. It encodes the text of every image, padded; "
            "ours the text of every class. It evaluates retrieval and knows no accuracy.",
            *remarks,
            "",
            HEAD,
            *lines,
        ]
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="versus_peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [pair.name for pair in PAIRS]
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=Path, help="folder of class folders; left out: drawn")
    parser.add_argument("--limit-images", type=int, metavar="N", help="at most so many")
    parser.add_argument("--pairs", nargs="+", choices=names, default=names, metavar="PAIR")
    parser.add_argument("--image-encoder", default="resnet18", help="timm's name")
    parser.add_argument("--text-encoder", default="ViT-B-32", help="open_clip's name")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        "--workers",
        type=int,
        default=min(4, usable_cores()),
        help="of the peers; 4 as they have it, but no more than cores",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    chosen = parse(arguments)
    lines, remarks = [], []
    for pair in PAIRS:
        if pair.name in chosen.pairs:
            with tempfile.TemporaryDirectory() as folder:
                images, form, costs = compare(pair, chosen, Path(folder))
            name = f"{pair.peer}, {pair.img_size} px"
            lines.append(line(name, costs))
            remarks.append(
                f"- {name}: {images.described}, {images.n_train} for training and {images.n_val} "
                f"for validation; the peer was fastest in {form}."
            )
            print(lines[-1], file=sys.stderr, flush=True)
    section = report(lines, remarks, chosen)
    if chosen.write:
        write_section(f"versus-peers-{chosen.device}", section)
    else:
        print(section)


if __name__ == "__main__":
    main()
