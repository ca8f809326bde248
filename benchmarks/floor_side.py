"""The model and nothing else: forward, backward and optimiser on tensors that are there already.

    python -m benchmarks.floor_side resnet18 --train 128 --val 32

Trains the bare timm model with a linear layer on it, on one batch of random numbers again and
again, and looks at another one in inference mode, as often as an epoch of so many images does.
There is no loss to speak of, no clipping, no schedule, no metric. Prints seconds as JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

import timm
import torch
from torch import Tensor

from benchmarks.formats import NAMES, Format, fastest
from benchmarks.measurement import timed
from clip_pkg.data.batches import evaluation_batch_size
from clip_pkg.models.precision import flushed_denormals

WARM_UP = 2  # passes over a batch


class BareModel:
    """A timm model with a linear layer to `outputs` numbers on it, and its optimiser."""

    def __init__(
        self, encoder: str, img_size: int, outputs: int, device: torch.device, form: Format
    ) -> None:
        fixed = timm.models.get_pretrained_cfg(encoder).fixed_input_size
        size = {"img_size": img_size} if fixed else {}
        model = timm.create_model(encoder, num_classes=outputs, **size)
        self._model = model.to(device).to(memory_format=form.layout)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), fused=True)
        self._shape = (3, img_size, img_size)
        self._device, self._form = device, form

    def images(self, count: int) -> Tensor:
        """Random ones where the model is, [count, 3, H, H]."""
        drawn = torch.randn(count, *self._shape, device=self._device)
        return drawn.contiguous(memory_format=self._form.layout)

    def train(self, images: Tensor) -> None:
        """Forward, backward, update."""
        self._model.train()
        with self._form.autocast(self._device):
            output = self._model(images)
        self._optimizer.zero_grad()
        output.float().mean().backward()
        self._optimizer.step()

    @torch.inference_mode()
    def look(self, images: Tensor) -> None:
        """Forward, as evaluations do it."""
        self._model.eval()
        with self._form.autocast(self._device):
            self._model(images)


def pass_seconds(step: Callable[[Tensor], None], batch: Tensor, count: int) -> float:
    """Seconds of `count` images in batches like this one and a smaller last one, warmed up."""
    pieces = [batch] * (count // len(batch))
    pieces += [batch[: count % len(batch)]] if count % len(batch) else []
    for _ in range(WARM_UP):
        step(pieces[0])

    def once() -> None:
        for piece in pieces:
            step(piece)

    return timed(once, batch.device, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what one epoch of the bare model takes, in the fastest format or the one named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("encoder", help="timm's name")
    parser.add_argument("--train", type=int, required=True, help="images of an epoch")
    parser.add_argument("--val", type=int, required=True, help="images of a validation pass")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--outputs", type=int, default=512, help="of the linear layer")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--format", choices=list(NAMES), help="left out: the fastest is found")
    parsed = parser.parse_args(arguments)
    device = torch.device(parsed.device)
    torch.backends.cudnn.benchmark = True

    def bare(form: Format) -> BareModel:
        return BareModel(parsed.encoder, parsed.img_size, parsed.outputs, device, form)

    def step(form: Format) -> Callable[[], None]:
        model = bare(form)
        images = model.images(parsed.batch_size)
        return lambda: model.train(images)

    with flushed_denormals():
        form = NAMES[parsed.format] if parsed.format else fastest(step, device)
        model = bare(form)
        looking = evaluation_batch_size(parsed.batch_size, parsed.img_size, device.type)
        train = pass_seconds(model.train, model.images(parsed.batch_size), parsed.train)
        val = pass_seconds(model.look, model.images(looking), parsed.val)
    print(json.dumps({"format": str(form), "train_seconds": train, "val_seconds": val}), flush=True)


if __name__ == "__main__":
    main()
