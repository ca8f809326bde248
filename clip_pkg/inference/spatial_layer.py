"""The last layer of an image encoder in which what it found still has a place in the image.

Legend: B images, H side of what the encoder sees in pixels, K channels of a layer, g side of its
grid (g < H), L tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from clip_pkg.base.errors import UserError
from clip_pkg.models.classifier import Classifier
from clip_pkg.models.precision import flushed_denormals

Layout: TypeAlias = Literal["channels first", "channels last", "tokens"]
SMALLEST_GRID = 2
OTHERS = "num_prefix_tokens"  # timm's name of the number of tokens in front of the patches
MOST_CLASS_TOKENS = 2  # where the encoder does not say how many


@dataclass(frozen=True)
class Grid:
    """How a layer's output lies over the image.

    [B, K, g, g], [B, g, g, K], or tokens [B, L, K] in rows of g after `others` that belong to no
    place.
    """

    layout: Layout
    side: int
    others: int = 0

    def as_map(self, output: Tensor) -> Tensor:
        """What belongs to places, as [B, K, g, g]."""
        if self.layout == "channels first":
            return output
        if self.layout == "channels last":
            return output.permute(0, 3, 1, 2)
        places = output[:, self.others :].transpose(1, 2)
        return places.reshape(len(output), -1, self.side, self.side)

    def from_map(self, values: Tensor, output: Tensor) -> Tensor:
        """Lay a map [B, K, g, g] as `output` lies, whose other tokens are kept."""
        if self.layout == "channels first":
            return values
        if self.layout == "channels last":
            return values.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.others], values.flatten(2).transpose(1, 2)], dim=1)


@dataclass(frozen=True, eq=False)
class SpatialLayer:
    """module: the layer. grid: how its output lies."""

    module: nn.Module
    grid: Grid


def find_spatial_layer(classifier: Classifier, img_size: int, device: torch.device) -> SpatialLayer:
    """Find the layer by one pass forward and back, so that no architecture has to be known.

    The last stage of the encoder that has places tells what a late map looks like. Of all layers
    with outputs of that shape the last is taken in which places have a say. Where the encoder
    convolves or takes a mean over places, that is the stage itself; in a transformer whose class
    token answers, it is what the last attention looks at.

    img_size: H. Raises UserError if no layer can be shown as a map.
    """
    encoder = classifier.model.image_encoder.model
    gradients = _gradients(encoder, classifier, img_size, device)
    others = next(
        (n for one in encoder.modules() if isinstance(n := getattr(one, OTHERS, None), int)), None
    )
    grids = {module: _grid(gradient.shape, others) for module, gradient in gradients.items()}
    stage = _last_stage(encoder, gradients, grids)
    shape = None if stage is None else gradients[stage].shape
    for module, gradient in reversed(gradients.items()):
        grid = grids[module]
        if gradient.shape == shape and grid is not None and grid.as_map(gradient).any():
            return SpatialLayer(module, grid)
    raise UserError(
        f"no layer of the image encoder can be shown as a map of at least {SMALLEST_GRID}×"
        f"{SMALLEST_GRID} places at img_size {img_size}; its answers cannot be explained this way"
    )


def _gradients(
    encoder: nn.Module, classifier: Classifier, img_size: int, device: torch.device
) -> dict[nn.Module, Tensor]:
    """Gradient of a logit with respect to the outputs of layers, in the order of their ends.

    Layers are left out that are used twice, or that give several tensors.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, img_size, img_size, generator=generator).to(device)
    ended: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            ended.append((module, output))

    with flushed_denormals(), ExitStack() as hooks:
        for module in encoder.modules():
            hooks.callback(module.register_forward_hook(note).remove)
        logits = classifier.logits(classifier.embeddings(noise.requires_grad_()))
    uses = Counter(module for module, _ in ended)
    outputs = {module: output for module, output in ended if uses[module] == 1}
    found = torch.autograd.grad(logits.max(), list(outputs.values()), allow_unused=True)
    return {
        module: gradient
        for module, gradient in zip(outputs, found, strict=True)
        if gradient is not None
    }


def _grid(shape: torch.Size, others: int | None) -> Grid | None:
    """How an output of this shape lies, if places can be told in it; images are square.

    others: tokens that belong to no place, where the encoder says how many it has.
    """
    if len(shape) == 4:
        if shape[2] == shape[3] >= SMALLEST_GRID:
            return Grid("channels first", shape[2])
        if shape[1] == shape[2] >= SMALLEST_GRID:
            return Grid("channels last", shape[1])
    if len(shape) == 3:
        for count in dict.fromkeys([others or 0, *range(MOST_CLASS_TOKENS + 1)]):
            side = math.isqrt(max(0, shape[1] - count))
            if side >= SMALLEST_GRID and side * side == shape[1] - count:
                return Grid("tokens", side, count)
    return None


def _last_stage(
    whole: nn.Module, gradients: Mapping[nn.Module, Tensor], grids: Mapping[nn.Module, Grid | None]
) -> nn.Module | None:
    """Last of the outermost modules with places; if its successors shrink a map to one, within."""
    level = list(_parts(whole))
    while level:
        for module in reversed([module for module in gradients if module in level]):
            if grids[module] is not None:
                return module
            if gradients[module].ndim == 4 and (inner := _last_stage(module, gradients, grids)):
                return inner
        level = [part for module in level for part in _parts(module)]
    return None


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """Children; lists of modules are no modules that compute."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _parts(child)
        else:
            yield child
