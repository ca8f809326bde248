"""torch.compile for the image encoder, the config's key `compile`.

Legend: B images of a batch, H image height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from clip_pkg.base.errors import UserError, first_line
from clip_pkg.models.precision import Precision
from clip_pkg.training.batch_norm import batch_norms, restored_afterwards
from clip_pkg.training.image_forward import EmbedsImages
from clip_pkg.training.ranks import Ranks

# An estimate: compiling takes a minute or two, and saves about a tenth of steps of 100 ms.
PAYS_FROM_STEPS = 10_000
BACKEND = "inductor"
# The same random numbers as eager layers, so that dropout drops the same units. Only the default
# backend has the setting.
OPTIONS: dict[str, Any] = {"fallback_random": True}


@dataclass(frozen=True)
class Shapes:
    """Batches that the encoder is compiled for; all others are computed eagerly.

    train, evaluation: numbers of images; evaluation is None without evaluations. img_size: H.
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
    """Compile the image encoder if `wanted` and possible; returns a notice about it.

    wanted: the key `compile`; "auto" compiles trainings of at least `PAYS_FROM_STEPS` on a GPU.
    steps: of the whole training. model: in training mode, on its device. Its parameters, buffers,
    their names and the random numbers to come stay unchanged.

    Raises UserError if it cannot be compiled and the key is true.
    """
    if wanted is False or (wanted == "auto" and not _pays(steps, model, ranks)):
        return None
    reason = (
        "several processes share every batch"
        if ranks.are_several
        else _compile(model, precision, shapes)
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


def _pays(steps: int, model: EmbedsImages, ranks: Ranks) -> bool:
    return (
        _device(model).type == "cuda"
        and find_spec("triton") is not None
        and steps >= PAYS_FROM_STEPS
        and not ranks.are_several
        and not model.image_encoder.recomputes
    )


def _compile(model: EmbedsImages, precision: Precision, shapes: Shapes) -> str | None:
    """Compile it and run it once in each shape; returns the reason if that fails.

    The runs leave the model unchanged.
    """
    device = _device(model)
    if device.type == "cuda" and find_spec("triton") is None:
        return "Triton is not installed"
    # A worker trains many folds, and torch counts compilations per function, not per model.
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
    tower = encoder, model.image_projection
    trained = [p for module in tower for p in module.parameters() if p.requires_grad]
    devices = [device] if device.type == "cuda" else []

    def images(count: int) -> Tensor:
        zeros = torch.zeros(count, 3, shapes.img_size, shapes.img_size, device=device)
        return zeros.to(memory_format=precision.memory_format)

    try:
        with torch.random.fork_rng(devices), restored_afterwards(batch_norms(encoder)):
            for count in sorted(shapes.train):
                with precision.autocast():
                    embeddings = model.image_embeddings(images(count))
                torch.autograd.grad(embeddings.sum(), trained, allow_unused=True)
        if shapes.evaluation is not None:
            model.train(mode=False)
            try:
                with torch.inference_mode(), precision.autocast():
                    model.image_embeddings(images(shapes.evaluation))
            finally:
                model.train()
    except torch.OutOfMemoryError:
        raise  # the batch does not fit; the compiler is not at fault
    except Exception as error:  # compilers fail in many ways
        if "C++ compiler" in str(error):
            return "no working C++ compiler found (g++, or the one that CXX names)"
        return first_line(error)
    return None


def _device(model: EmbedsImages) -> torch.device:
    return next(model.parameters()).device
