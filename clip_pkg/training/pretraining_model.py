"""What is pre-trained: an image encoder, and a projection that only the loss sees.

Legend: B images, H side of an image in pixels, F features of the encoder, P size that the loss
compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from timm.optim import Lars
from torch import Tensor, nn

from clip_pkg.config.pretraining import LarsConfig, PretrainConfig, ProjectionConfig, SgdConfig
from clip_pkg.config.schema import RunConfig
from clip_pkg.losses.functional.numerics import widened
from clip_pkg.models.image_encoder import ImageEncoder, build_image_encoder
from clip_pkg.training.optimisation import Groups, fused_adamw

LARS_BATCH = 256  # images for which the rate of LARS is given


class ViewsModel(nn.Module):
    """Image encoder and projection head.

    For `engine.image_side` the encoder's features are the embeddings: the head is no part of what
    is computed in parts, so that its batch statistics are of the whole batch in any case.
    """

    def __init__(self, encoder: ImageEncoder, projection: ProjectionConfig) -> None:
        super().__init__()
        self.image_encoder = encoder
        self.image_projection = nn.Identity()
        self.head = projection_head(encoder.num_features, projection)

    def image_embeddings(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, H] → features, float32 [B, F]."""
        return widened(self.image_encoder(images))

    def projected(self, features: Tensor) -> Tensor:
        """Features [B, F] → what the loss compares, float32 [B, P]."""
        return widened(self.head(features))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, H] → what the loss compares, float32 [B, P]."""
        return self.projected(self.image_embeddings(images))

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Sort the parameters into those that decay and norms, biases and the like, which do not.

        What an encoder's own library never decays does not decay here either.
        """
        undecayed = set(self._undecayed_names())
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.named_parameters():
            groups[parameter.ndim > 1 and name not in undecayed].append(parameter)
        return [
            {"params": parameters, "lr": lr, "weight_decay": weight_decay if decays else 0.0}
            for decays, parameters in groups.items()
            if parameters
        ]

    def _undecayed_names(self) -> Iterator[str]:
        for name, module in self.named_modules():
            if callable(excluded := getattr(module, "no_weight_decay", None)):
                yield from (f"{name}.{parameter}" for parameter in excluded())


def projection_head(features: int, config: ProjectionConfig) -> nn.Sequential:
    """Linear layers with batch norms and ReLUs between them: [B, F] → [B, P]."""
    sizes = [features, *[config.hidden] * (config.layers - 1), config.dim]
    modules: list[nn.Module] = []
    for width, following in pairwise(sizes[:-1]):
        modules += [nn.Linear(width, following, bias=False), nn.BatchNorm1d(following), nn.ReLU()]
    return nn.Sequential(*modules, nn.Linear(sizes[-2], sizes[-1]))


def build_views_model(config: RunConfig, block: PretrainConfig, *, trained: bool) -> ViewsModel:
    """Build it on the CPU, in training mode, with random numbers of torch's global generator.

    trained: a checkpoint's weights will take the place of any, so that no file is needed.
    """
    spec = config.image_encoder.untrained if trained else config.image_encoder
    directory = Path(config.weights_dir).expanduser() if config.weights_dir else None
    encoder = build_image_encoder(
        spec, img_size=config.img_size, weights_dir=directory, stem=config.stem
    )
    return ViewsModel(encoder, block.projection).train()


def peak_rate(block: PretrainConfig, batch_size: int) -> float:
    """Peak of the learning rate; that of LARS is given for 256 images."""
    rate = block.optimizer.learning_rate
    return rate * batch_size / LARS_BATCH if isinstance(block.optimizer, LarsConfig) else rate


def optimizer_factory(block: PretrainConfig) -> Callable[[Groups], torch.optim.Optimizer]:
    """Return what makes the config's optimiser of parameter groups."""
    chosen = block.optimizer
    if isinstance(chosen, SgdConfig):
        return lambda groups: torch.optim.SGD(groups, momentum=chosen.momentum)
    if isinstance(chosen, LarsConfig):
        return lambda groups: Lars(groups, momentum=chosen.momentum)
    return fused_adamw
