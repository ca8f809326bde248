"""torch.compile for the image encoder: where it pays, and what happens where it cannot be.

Legend: B images of a batch, H side of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from clip_pkg.base.errors import UserError, first_line
from clip_pkg.models.precision import Precision
from clip_pkg.training.batch_norm import batch_norms, computed_again
from clip_pkg.training.image_forward import EmbedsImages
from clip_pkg.training.ranks import Ranks

# An estimate: compiling takes a minute or two, and saves about a tenth of steps of 100 ms.
PAYS_FROM_STEPS = 10_000
BACKEND = "inductor"
# The very random numbers of eager layers, so that dropout drops what it drops without compiling.
# Only the default backend knows the setting.
OPTIONS: dict[str, Any] = {"fallback_random": True}


@dataclass(frozen=True)
class Shapes:
    """Batches that are worth compiling for; all others are computed as they come.

    train, evaluation: their numbers of images, None without evaluations. img_size: H.
    """

    train: frozenset[int]
    evaluation: int | None
    img_size: int


def compile_image_encoder(
    wanted: bool | str,
    model: EmbedsImages,
    precision: Precision,
    shapes: Shapes,
    *,
    steps: int,
    ranks: Ranks,
) -> str | None:
    """Compile the image encoder if `wanted` and possible; returns what is to be told about it.

    wanted: the key `compile`; "auto" is for trainings of at least `PAYS_FROM_STEPS` on a GPU.
    steps: of the whole training. model: in training mode, on its device. Its parameters, buffers,
    their names and the random numbers to come stay as they are.

    Raises UserError where it cannot be and the key is true.
    """
    device = _device(model)
    if wanted == "auto" and not _pays(device, steps, model, ranks):
        return None
    if wanted is False:
        return None
    reason = (
        "several processes share every batch"
        if ranks.are_several
        else _tried(model, precision, shapes)
    )
    if reason is None:
        return (
            "The image encoder was compiled (torch.compile), which can change its numbers by "
            "rounding."
        )
    model.image_encoder.compute_eagerly()
    if wanted is True:
        raise UserError(
            f'compile: the image encoder cannot be compiled here: {reason}; set it to "auto" or '
            "false"
        )
    return f"The image encoder was not compiled: {reason}."


def _pays(device: torch.device, steps: int, model: EmbedsImages, ranks: Ranks) -> bool:
    return (
        device.type == "cuda"
        and find_spec("triton") is not None
        and steps >= PAYS_FROM_STEPS
        and not ranks.are_several
        and not model.image_encoder.recomputes
    )


def _tried(model: EmbedsImages, precision: Precision, shapes: Shapes) -> str | None:
    """Compile and run it once in each shape that will come; says why that failed."""
    device = _device(model)
    if device.type == "cuda" and find_spec("triton") is None:
        return "Triton is not installed"
    # A worker lives for many folds, and torch counts compilations per function, not per model.
    torch._dynamo.reset()
    encoder = model.image_encoder
    forward: Callable[[Tensor], Tensor] = torch.compile(
        encoder.model.forward,
        dynamic=False,
        backend=BACKEND,
        options=OPTIONS if BACKEND == "inductor" else None,
    )
    evaluated = frozenset() if shapes.evaluation is None else {shapes.evaluation}
    encoder.compute_by(forward, shapes.train | evaluated)
    try:
        _run_once(model, precision, shapes, device)
    except torch.OutOfMemoryError:
        raise  # of the batch, not of the compiler
    except Exception as error:  # compilers fail in all kinds of ways
        return _what_failed(error)
    return None


def _run_once(
    model: EmbedsImages, precision: Precision, shapes: Shapes, device: torch.device
) -> None:
    """Let the compiler do its work before training begins; leaves no trace in the model."""
    side = model.image_encoder, model.image_projection
    trained = [p for module in side for p in module.parameters() if p.requires_grad]
    devices = [device] if device.type == "cuda" else []

    def images(count: int) -> Tensor:
        zeros = torch.zeros(count, 3, shapes.img_size, shapes.img_size, device=device)
        return zeros.to(memory_format=precision.memory_format)

    with torch.random.fork_rng(devices), computed_again(batch_norms(model.image_encoder)):
        for count in sorted(shapes.train):
            with precision.autocast():
                embeddings = model.image_embeddings(images(count))
            torch.autograd.grad(embeddings.sum(), trained, allow_unused=True)
    if shapes.evaluation is None:
        return
    model.train(mode=False)
    try:
        with torch.inference_mode(), precision.autocast():
            model.image_embeddings(images(shapes.evaluation))
    finally:
        model.train()


def _device(model: EmbedsImages) -> torch.device:
    return next(model.parameters()).device


def _what_failed(error: Exception) -> str:
    if "C++ compiler" in str(error):
        return "there is no C++ compiler that works (g++, or what CXX names)"
    return first_line(error)


def part_sizes(parts: Collection[Collection[tuple[int, int]]]) -> frozenset[int]:
    """How many images the parts (first, last + 1) of a dealt batch have."""
    return frozenset(last - first for of_rank in parts for first, last in of_rank if first < last)
