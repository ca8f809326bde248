"""The trainer beside the plain script that people have without it.

    bash benchmarks/run.sh versus_script --write
    bash benchmarks/run.sh versus_script --images DIR --limit-images 400 --epochs 5

Both train the same encoders from random weights on the same images of the same division, for as
many epochs: the guide's model (resnet18, CLIP text tower ViT-B/32, batch 32, 224 pixels, weighted
sampling), once with the text tower trained and once with it frozen. `user_script.py` is the script.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.commands import answer
from benchmarks.image_sets import ImageSet, make_image_set
from benchmarks.results import measured_on, write_section
from benchmarks.sides import EXPLAINED, HEAD, Cost, in_turn, line
from benchmarks.trainer import train
from benchmarks.user_script import TEMPLATE

VARIANTS = {"trained": "text tower trained", "frozen": "text tower frozen"}


def compare(
    variant: str, images: ImageSet, chosen: argparse.Namespace, folder: Path
) -> list[tuple[Cost, Cost]]:
    """Costs of both sides, round by round."""
    frozen = variant == "frozen"
    config = {
        "image_encoder_name": f"{chosen.image_encoder}:scratch",
        "text_encoder_name": f"clip:{chosen.text_encoder}:scratch",
        "freeze_text_encoder": frozen,
        "text_template": TEMPLATE,
        "img_size": chosen.img_size,
        "batch_size": chosen.batch_size,
        "epochs": chosen.epochs,
        "use_cv": False,
        "use_weighted_sampling": True,
        "loss": {"type": "clip"},
    }
    words = ["-m", "benchmarks.user_script", "--data", str(images.divided)]
    words += ["--image-encoder", chosen.image_encoder, "--text-encoder", chosen.text_encoder]
    words += ["--img-size", str(chosen.img_size), "--batch-size", str(chosen.batch_size)]
    words += ["--epochs", str(chosen.epochs), "--num-workers", str(chosen.workers)]
    words += ["--device", chosen.device, *(["--freeze-text"] if frozen else [])]

    def ours(place: Path) -> Cost:
        run = train(images.folder, config, place, chosen.device, splits_file=images.splits_file)
        return Cost.of_trainer(run)

    def script(place: Path) -> Cost:
        return Cost.of_answer(answer([*words, "--output", str(place)], chosen.device))

    return in_turn(ours, script, chosen.rounds, folder)


def report(lines: Sequence[str], images: ImageSet, chosen: argparse.Namespace) -> str:
    """The section of RESULTS.md."""
    return "\n".join(
        [
            f"## Beside a plain script on {chosen.device}",
            "",
            measured_on(torch.device(chosen.device), ["timm", "open_clip_torch"]),
            "",
            f"`{chosen.image_encoder}` and the text tower `{chosen.text_encoder}` from random "
            f"weights, {chosen.img_size} pixels, batch {chosen.batch_size}, {chosen.epochs} "
            f"epochs, CLIP loss, weighted sampling; {images.described}, {images.n_train} for "
            f"training and {images.n_val} for validation, the same for both. The script decodes "
            f"in {chosen.workers} worker processes.",
            EXPLAINED,
            f"Accuracy is on the validation images after {chosen.epochs} epochs from random "
            f"weights; always answering the most frequent class scores {images.majority:.1f} %.",
            "",
            HEAD,
            *lines,
        ]
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="versus_script", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=Path, help="folder of class folders; left out: drawn")
    parser.add_argument("--limit-images", type=int, default=160, metavar="N")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--image-encoder", default="resnet18", help="timm's name")
    parser.add_argument("--text-encoder", default="ViT-B-32", help="open_clip's name")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4, help="of the script; the guide has 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    chosen = parse(arguments)
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = make_image_set(
            chosen.images, chosen.limit_images, folder / "images", train_multiple=chosen.batch_size
        )
        for variant in chosen.variants:
            pairs = compare(variant, images, chosen, folder)
            lines.append(line(VARIANTS[variant], pairs))
            print(lines[-1], file=sys.stderr, flush=True)
    section = report(lines, images, chosen)
    if chosen.write:
        write_section(f"versus-script-{chosen.device}", section)
    else:
        print(section)


if __name__ == "__main__":
    main()
