"""Image encoders of all families, with a stem for small images.

Legend: B images, H width of an image in pixels, K channels, F features.

The standard stem of a ResNet reduces the resolution to H/4 before the first block: 8×8 for 32 px.
He et al. 2016 (arXiv:1512.03385, section 4.2) use one 3×3 convolution of stride 1 and no pooling
for CIFAR-10, and SimCLR (arXiv:2002.05709, appendix B.9) does so with ResNet-50.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

from timm.models.resnet import ResNet
from torch import Tensor, nn

from clip_pkg.base.errors import UserError
from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.models.families import family_of

Stem: TypeAlias = Literal["standard", "cifar"]


def with_stem(model: nn.Module, stem: Stem) -> nn.Module:
    """Replace the stem of a timm ResNet in place; returns the model.

    `cifar`: one convolution [B, 3, H, H] → [B, K, H, H] before the first block; normalisation,
    activation and K are the model's. Its weights are initialised as in timm, from torch's global
    generator. Raises UserError for other models.
    """
    if stem == "standard":
        return model
    if not isinstance(model, ResNet):
        raise UserError(
            f'stem "{stem}" is only available for timm ResNets, and this encoder is a '
            f'{type(model).__name__}: use stem "standard"'
        )
    channels = model.feature_info[0]["num_chs"]
    convolution = nn.Conv2d(3, channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = convolution
    model.maxpool = nn.Identity()
    changed: nn.Module = model
    return changed


class ImageEncoder(nn.Module):
    """Features [B, F] of images [B, 3, H, W] that are normalised with `mean` and `std`.

    num_features: F. mean, std: per channel, of pixels in [0, 1]. recomputes: whether activations
    are recomputed in the backward pass.
    """

    def __init__(
        self, model: nn.Module, num_features: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.model = model
        self.num_features = num_features
        self.mean = tuple(map(float, mean))
        self.std = tuple(map(float, std))
        self.recomputes = False
        self.compute_eagerly()

    def compute_by(self, forward: Callable[[Tensor], Tensor], sizes: Collection[int]) -> None:
        """Use `forward`, the compiled model, for batches of these sizes only.

        It is not registered as a module, so that parameters keep their names.
        """
        self._compiled = forward
        self._compiled_sizes = frozenset(sizes)

    def compute_eagerly(self) -> None:
        """Undo `compute_by`."""
        self.compute_by(self._eager, ())

    @property
    def is_compiled(self) -> bool:
        """Whether some batch sizes use a compiled function."""
        return bool(self._compiled_sizes)

    def _eager(self, images: Tensor) -> Tensor:
        features: Tensor = self.model(images)
        return features

    def recompute_activations(self) -> None:
        """Enable activation checkpointing.

        Batch normalisation then sees each batch twice; the caller of `backward` must restore its
        running statistics. Raises UserError if the encoder's library does not support it.
        """
        switch = getattr(self.model, "set_grad_checkpointing", None)
        if switch is not None:
            # Unsupported timm models raise AssertionError; those of open_clip ignore the call.
            with suppress(AssertionError):
                switch(True)
        self.recomputes = any(
            getattr(module, "grad_checkpointing", False) for module in self.model.modules()
        )
        if not self.recomputes:
            raise UserError(
                "activation_checkpointing is not supported by this image encoder; use "
                "micro_batch_size, or choose another encoder"
            )

    def forward(self, images: Tensor) -> Tensor:
        # While exporting, taking the length of a batch would fix its size.
        fits = bool(self._compiled_sizes) and len(images) in self._compiled_sizes
        return self._compiled(images) if fits else self._eager(images)


def build_image_encoder(
    spec: EncoderSpec,
    *,
    img_size: int,
    weights_dir: Path | None = None,
    stem: Stem = "standard",
) -> ImageEncoder:
    """Build the encoder of `spec`; random weights come from torch's global generator.

    Raises WeightsError if pretrained weights are not available, CheckpointError if a file does not
    fit the model, UserError if the model cannot be built for `img_size` or with this stem.
    """
    try:
        encoder = family_of(spec).build_image(spec, img_size, weights_dir)
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{spec.written} cannot be built for img_size {img_size}: {error}"
        ) from error
    with_stem(encoder.model, stem)
    return encoder
