"""First layers of a ResNet for small images, in place of those for 224 pixels.

Legend: B images, H side of an image in pixels, K channels.

The standard ones make a map of H/4 places per side before the first block; of an image of 32 pixels
8×8 are left. He et al. 2016 (arXiv:1512.03385, section 4.2) start their networks for CIFAR-10 with
one 3×3 convolution of stride 1 and no pooling, and SimCLR (arXiv:2002.05709, appendix B.9) does so
with ResNet-50.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from timm.models.resnet import ResNet
from torch import nn

from clip_pkg.errors import UserError

Stem: TypeAlias = Literal["standard", "cifar"]


def with_stem(model: nn.Module, stem: Stem) -> nn.Module:
    """Change the first layers of one of timm's ResNets in place; returns the same model.

    `cifar`: [B, 3, H, H] → [B, K, H, H] before the first block, by one convolution, whatever the
    number of its own; normalisation, activation and K are the model's. The new weights come from
    torch's global generator, as timm draws those of convolutions. Raises UserError for any other
    model.
    """
    if stem == "standard":
        return model
    if not isinstance(model, ResNet):
        raise UserError(
            f'stem "{stem}" is for timm\'s ResNets, which have layers to put it in the place of; '
            f'{type(model).__name__} has none of them: use stem "standard"'
        )
    channels = model.feature_info[0]["num_chs"]
    convolution = nn.Conv2d(3, channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = convolution
    model.maxpool = nn.Identity()
    changed: nn.Module = model
    return changed
