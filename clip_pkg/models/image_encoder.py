"""Image encoders: timm models and open_clip visual towers, with a stem for small images.

Legend: B images, H width of an image in pixels, K channels, F features.

The standard stem of a ResNet reduces the resolution to H/4 before the first block: 8×8 for 32 px.
He et al. 2016 (arXiv:1512.03385, section 4.2) use one 3×3 convolution of stride 1 and no pooling
for CIFAR-10, and SimCLR (arXiv:2002.05709, appendix B.9) does so with ResNet-50.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import timm
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from clip_pkg.base.errors import CheckpointError, UserError
from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.models.assets import assets
from clip_pkg.models.state_dicts import mismatch, read_state_dict
from clip_pkg.models.weights import obtain

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


Channels: TypeAlias = tuple[float, float, float]

# Tensors of a user's file that the encoder ignores: classifiers and remains of pretraining.
_HEADS = ("fc.", "head", "classif", "last_linear.", "aux", "mask_token", "decoder")


class ImageEncoder(nn.Module):
    """Features [B, F] of images [B, 3, H, W] that are normalised with `mean` and `std`.

    num_features: F. mean, std: per channel, of pixels in [0, 1]. recomputes: whether activations
    are recomputed in the backward pass.
    """

    def __init__(self, model: nn.Module, num_features: int, mean: Channels, std: Channels) -> None:
        super().__init__()
        self.model = model
        self.num_features = num_features
        self.mean = mean
        self.std = std
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
    weights = next((obtain(asset, spec, weights_dir) for asset in assets(spec, "image")), None)
    try:
        if spec.family == "clip":
            encoder = _clip_encoder(spec, img_size, weights)
        else:
            users_own = bool(weights and weights_dir and weights.is_relative_to(weights_dir))
            encoder = _timm_encoder(spec, img_size, weights, users_own=users_own)
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{spec.written} cannot be built for img_size {img_size}: {error}"
        ) from error
    with_stem(encoder.model, stem)
    return encoder


def _clip_encoder(spec: EncoderSpec, img_size: int, weights: Path | None) -> ImageEncoder:
    from clip_pkg.models import clip_towers  # noqa: PLC0415  open_clip takes a second

    tower = clip_towers.visual_tower(spec, img_size, weights)
    mean, std = clip_towers.normalisation(spec)
    return ImageEncoder(tower, clip_towers.embedding_size(spec), _channels(mean), _channels(std))


def _timm_encoder(
    spec: EncoderSpec, img_size: int, weights: Path | None, *, users_own: bool
) -> ImageEncoder:
    cfg = timm.models.get_pretrained_cfg(spec.model)
    size = {"img_size": img_size} if cfg.fixed_input_size else {}
    if weights is None:
        model = timm.create_model(spec.model, pretrained=False, num_classes=0, **size)
    else:
        model = _loaded_timm_model(spec, size, weights, users_own=users_own)
    features = int(getattr(model, "head_hidden_size", None) or model.num_features)
    return ImageEncoder(model, features, _channels(cfg.mean), _channels(cfg.std))


def _loaded_timm_model(
    spec: EncoderSpec, size: dict[str, int], weights: Path, *, users_own: bool
) -> nn.Module:
    """Let timm adapt names and position embeddings of a file, then check that all was loaded.

    timm only logs names without a match. Published files may lack norm scales and biases, which
    start as the identity, but not matrices and kernels.
    """
    state = read_state_dict(weights)
    overlay = {"state_dict": state}
    try:
        with _recorded_loads() as reports:
            model = timm.create_model(
                spec.model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **size
            )
    except Exception as error:  # timm's filters raise any error on foreign files
        raise CheckpointError(f"{weights}: does not fit {spec.model}: {error}") from error
    model.pretrained_cfg.pop("state_dict")  # timm would keep a second copy
    missing, unexpected = reports[-1] if reports else ([], [])
    own = model.state_dict()
    missing = [name for name in missing if users_own or own[name].ndim > 1]
    unexpected = [name for name in unexpected if users_own and not name.startswith(_HEADS)]
    if missing or unexpected:
        raise CheckpointError(mismatch(str(weights), missing, unexpected))
    loaded: nn.Module = model
    return loaded


@contextmanager
def _recorded_loads() -> Iterator[list[tuple[list[str], list[str]]]]:
    """Missing and unexpected names of each `load_state_dict`; the whole model comes last."""
    reports: list[tuple[list[str], list[str]]] = []
    watched: dict[nn.Module, None] = {}

    def note(_module: nn.Module, keys: Any) -> None:
        reports.append((list(keys.missing_keys), list(keys.unexpected_keys)))

    def watch(parent: nn.Module, _name: str, _child: nn.Module | None) -> None:
        if parent not in watched:
            watched[parent] = None
            handles.append(parent.register_load_state_dict_post_hook(note))  # type: ignore[no-untyped-call]  # torch's

    handles = [register_module_module_registration_hook(watch)]
    try:
        yield reports
    finally:
        for handle in handles:
            handle.remove()


def _channels(values: tuple[float, ...]) -> Channels:
    red, green, blue = values
    return float(red), float(green), float(blue)
