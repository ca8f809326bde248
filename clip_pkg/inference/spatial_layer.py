"""The last layer of an image encoder with spatial resolution.

Legend: B images, H width of the encoder's input in pixels, K channels of a layer, g width of its
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
MIN_GRID = 2
PREFIX_TOKENS = "num_prefix_tokens"  # timm's attribute: tokens before the patch tokens
MAX_CLASS_TOKENS = 2  # tried where the encoder does not declare them


@dataclass(frozen=True)
class Grid:
    """Spatial layout of a layer's output.

    [B, K, g, g], [B, g, g, K], or tokens [B, L, K] in rows of g after `prefix` tokens without a
    position.
    """

    layout: Layout
    width: int
    prefix: int = 0

    def as_map(self, output: Tensor) -> Tensor:
        """The spatial positions, as [B, K, g, g]."""
        if self.layout == "channels first":
            return output
        if self.layout == "channels last":
            return output.permute(0, 3, 1, 2)
        patches = output[:, self.prefix :].transpose(1, 2)
        return patches.reshape(len(output), -1, self.width, self.width)

    def from_map(self, values: Tensor, output: Tensor) -> Tensor:
        """Inverse of `as_map`: [B, K, g, g] in the layout of `output`, with its prefix tokens."""
        if self.layout == "channels first":
            return values
        if self.layout == "channels last":
            return values.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.prefix], values.flatten(2).transpose(1, 2)], dim=1)


@dataclass(frozen=True, eq=False)
class SpatialLayer:
    """module: the layer. grid: layout of its output."""

    module: nn.Module
    grid: Grid


def find_spatial_layer(classifier: Classifier, img_size: int, device: torch.device) -> SpatialLayer:
    """Find the layer with one forward and backward pass, for any architecture.

    The output of the encoder's last spatial stage has the shape of a late map. The result is the
    last layer with outputs of that shape whose spatial positions have a gradient: the stage itself
    in a convolutional network or with mean pooling over tokens, the input of the last attention in
    a transformer with a class token.

    img_size: H. Raises UserError if no layer can be shown as a map.
    """
    encoder = classifier.model.image_encoder.model
    gradients = _gradients(encoder, classifier, img_size, device)
    prefix = next(
        (n for one in encoder.modules() if isinstance(n := getattr(one, PREFIX_TOKENS, None), int)),
        None,
    )
    grids = {module: _grid(gradient.shape, prefix) for module, gradient in gradients.items()}
    stage = _last_stage(encoder, gradients, grids)
    shape = None if stage is None else gradients[stage].shape
    for module, gradient in reversed(gradients.items()):
        grid = grids[module]
        if gradient.shape == shape and grid is not None and grid.as_map(gradient).any():
            return SpatialLayer(module, grid)
    raise UserError(
        f"no layer of the image encoder has at least {MIN_GRID}×{MIN_GRID} positions at img_size "
        f"{img_size}, so its predictions cannot be explained with Grad-CAM"
    )


def _gradients(
    encoder: nn.Module, classifier: Classifier, img_size: int, device: torch.device
) -> dict[nn.Module, Tensor]:
    """Gradients of a logit with respect to layer outputs, in the order of execution.

    Layers that run twice or return several tensors are skipped.
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


def _grid(shape: torch.Size, prefix: int | None) -> Grid | None:
    """Layout of an output of this shape, or None if it is not spatial; images are square.

    prefix: number of prefix tokens, if the encoder declares it.
    """
    if len(shape) == 4:
        if shape[2] == shape[3] >= MIN_GRID:
            return Grid("channels first", shape[2])
        if shape[1] == shape[2] >= MIN_GRID:
            return Grid("channels last", shape[1])
    if len(shape) == 3:
        for count in dict.fromkeys([prefix or 0, *range(MAX_CLASS_TOKENS + 1)]):
            width = math.isqrt(max(0, shape[1] - count))
            if width >= MIN_GRID and width * width == shape[1] - count:
                return Grid("tokens", width, count)
    return None


def _last_stage(
    whole: nn.Module, gradients: Mapping[nn.Module, Tensor], grids: Mapping[nn.Module, Grid | None]
) -> nn.Module | None:
    """Last of the outermost modules with a spatial output; searches inside one that pools it."""
    level = list(_children(whole))
    while level:
        for module in reversed([module for module in gradients if module in level]):
            if grids[module] is not None:
                return module
            if gradients[module].ndim == 4 and (inner := _last_stage(module, gradients, grids)):
                return inner
        level = [child for module in level for child in _children(module)]
    return None


def _children(module: nn.Module) -> Iterator[nn.Module]:
    """Children that compute; containers are replaced by their content."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _children(child)
        else:
            yield child
