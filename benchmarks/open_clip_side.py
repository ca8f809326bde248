"""open_clip's own training program, `open_clip_train.main`, with clocks around its epochs.

    python -m benchmarks.open_clip_side --data DIR --output DIR      DIR has train/ and val/

It trains a timm image encoder and a text tower of open_clip on CSV files of images and texts, with
its own loader, transforms, loss, optimiser, schedule, TensorBoard curves, evaluation and
checkpoints. The program is run as it is; around its functions for a model, an epoch and an
evaluation are ours, which choose the memory format, for which it has no option, and take the time.
Prints seconds of its epochs as JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import torch
from open_clip_train import main as program

from benchmarks.formats import NAMES, Format, fastest
from benchmarks.user_script import TEMPLATE

MODEL = "measured"
LENGTH = 77  # tokens that CLIP's towers read


def add_model(chosen: argparse.Namespace, folder: Path) -> None:
    """Make open_clip know the pair of encoders as `MODEL`."""
    known = open_clip.get_model_config(chosen.text_encoder)
    config = {
        "embed_dim": known["embed_dim"],
        "vision_cfg": {
            "timm_model_name": chosen.image_encoder,
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": chosen.img_size,
        },
        "text_cfg": known["text_cfg"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{MODEL}.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(folder)


def write_table(folder: Path, file: Path) -> None:
    """Write the images of class folders with the texts of their classes."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, delimiter="\t")
        table.writerow(["filepath", "title"])
        for path in sorted(folder.glob("*/*")):
            table.writerow([path, TEMPLATE.format(path.parent.name)])


def fastest_format(chosen: argparse.Namespace) -> Format:
    """Format in which the device trains this pair of encoders fastest."""
    device = torch.device(chosen.device)

    def make_step(form: Format) -> Callable[[], None]:
        model = open_clip.create_model(MODEL, device=device, output_dict=True)
        model = model.to(memory_format=form.layout)
        loss = open_clip.ClipLoss()
        shape = (chosen.batch_size, 3, chosen.img_size, chosen.img_size)
        images = torch.randn(shape, device=device)
        texts = torch.randint(1, 1000, (chosen.batch_size, LENGTH), device=device)

        def step() -> None:
            model.zero_grad()
            with form.autocast(device):
                value = loss(**model(images, texts))
            value.backward()

        return step

    return fastest(make_step, device)


def train(chosen: argparse.Namespace, form: Format) -> dict[str, Any]:
    """Run the program and say what its epochs took."""
    for side in ("train", "val"):
        write_table(chosen.data / side, chosen.output / f"{side}.csv")
    seconds: list[float] = []

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            result = function(*args, **kwargs)
            seconds.append(time.perf_counter() - begun)
            return result

        return counted

    def formatted(*args: Any, **kwargs: Any) -> Any:
        model, *transforms = open_clip.create_model_and_transforms(*args, **kwargs)
        return model.to(memory_format=form.layout), *transforms

    words = ["--model", MODEL, "--device", chosen.device, "--report-to", "tensorboard"]
    words += ["--train-data", str(chosen.output / "train.csv")]
    words += ["--val-data", str(chosen.output / "val.csv")]
    words += ["--precision", "amp_bf16" if form.bfloat16 else "fp32"]
    words += ["--batch-size", str(chosen.batch_size), "--epochs", str(chosen.epochs)]
    words += ["--workers", str(chosen.workers), "--warmup", "1", "--lr", "1e-4", "--wd", "0.01"]
    words += ["--logs", str(chosen.output), "--name", "run"]
    words += ["--lock-text"] if chosen.freeze_text else []
    started = time.perf_counter()
    with (
        patch.object(program, "train_one_epoch", clocked(program.train_one_epoch)),
        patch.object(program, "evaluate", clocked(program.evaluate)),
        patch.object(program, "create_model_and_transforms", formatted),
    ):
        program.main(words)
    whole = time.perf_counter() - started
    assert len(seconds) == 2 * chosen.epochs, "an epoch is one training and one evaluation"
    epochs = [sum(seconds[first : first + 2]) for first in range(0, len(seconds), 2)]
    return {"epoch_seconds": epochs, "seconds": whole}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or only find the fastest format."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--image-encoder", default="resnet18")
    parser.add_argument("--text-encoder", default="ViT-B-32", help="open_clip's name")
    parser.add_argument("--freeze-text", action="store_true")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--format", choices=list(NAMES), help="left out: find the fastest and end")
    chosen = parser.parse_args(arguments)
    add_model(chosen, chosen.output / "models")
    told = (
        {"format": str(fastest_format(chosen))}
        if chosen.format is None
        else train(chosen, NAMES[chosen.format])
    )
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
