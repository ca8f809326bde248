"""Precision and memory format of the towers. Logits and losses are always float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

# Below this size, preparing convolutions for a CPU's matrix units costs more than it saves: a step
# of resnet18 at 32 px takes 69 ms in float32 and 88 in bfloat16, at 64 px 167 and 135.
MIN_MATRIX_UNIT_IMAGE = 48


@dataclass(frozen=True)
class Precision:
    """dtype: of the towers' forward pass, None for float32. memory_format: of kernels too."""

    device_type: str
    dtype: torch.dtype | None
    memory_format: torch.memory_format = torch.channels_last

    @property
    def needs_scaling(self) -> bool:
        """Whether the loss must be scaled, because float16 gradients underflow."""
        return self.dtype is torch.float16

    def autocast(self) -> AbstractContextManager[object]:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def text_autocast(self) -> AbstractContextManager[object]:
        """Autocast for the text encoder: float32 on CPUs.

        With a few short class texts a CPU mostly reads weights; casting them in each step costs
        more than half precision saves.
        """
        return nullcontext() if self.device_type == "cpu" else self.autocast()

    def __str__(self) -> str:
        return (
            "float32" if self.dtype is None else f"mixed {str(self.dtype).removeprefix('torch.')}"
        )


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush denormal numbers to 0 on the CPU, as training does.

    At low temperatures most softmax terms are denormal, which slows CPUs down a hundredfold.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def choose_precision(
    device: torch.device,
    image_encoder: nn.Module,
    *,
    img_size: int,
    use_amp: bool,
    amp_dtype: Literal["auto", "bfloat16", "float16"],
) -> Precision:
    """The fastest precision of the device for images of `img_size` pixels.

    CPUs use bfloat16 only with instructions for it: emulated bfloat16 is slower than float32, and
    float16 training is not supported on CPUs.

    - Vector units only (AVX-512 BF16, as in AMD's Zen 4): bfloat16 is always faster. A step takes,
      in float32 and bfloat16, 1.88 and 0.97 s (resnet18 at 224 px), 93 and 77 ms (at 32 px), 0.88
      and 0.85 s (efficientnet_b0 at 224 px).
    - Matrix units (AMX): float32 is faster for small images in dense convolutions, and at any size
      for depthwise convolutions with batch normalisation, which multiply little (a step of
      efficientnet_b0 at 224 px takes 0.82 s in float32, 1.09 in bfloat16).

    The rule depends on the architectures of processor and model, not on a measurement, so that a
    config has the same numbers every time. `amp_dtype` overrides it.
    """
    if device.type == "cpu":
        small = img_size < MIN_MATRIX_UNIT_IMAGE
        convolutional = _is_convolutional(image_encoder)
        depthwise = _has_normalised_depthwise_convolutions(image_encoder)
        matrix_units = torch.cpu._is_amx_tile_supported()
        supported = matrix_units or torch.cpu._is_avx512_bf16_supported()
        slower = matrix_units and (depthwise or (convolutional and small))
        requested = use_amp and amp_dtype != "float16"
        gains = supported and requested and (amp_dtype == "bfloat16" or not slower)
        planes = not gains and convolutional and small and not depthwise
        return Precision(
            "cpu",
            torch.bfloat16 if gains else None,
            torch.contiguous_format if planes else torch.channels_last,
        )
    if not use_amp or device.type == "mps":  # half precision was never measured on Apple's GPUs
        return Precision(device.type, None)
    if amp_dtype == "auto":
        half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return Precision(device.type, half)
    return Precision(device.type, getattr(torch, amp_dtype))


def _is_convolutional(encoder: nn.Module) -> bool:
    """Whether it has convolutions besides a transformer's patch embedding."""
    kernels = [one for one in encoder.modules() if isinstance(one, nn.Conv2d)]
    return len([one for one in kernels if one.stride != one.kernel_size]) > 1


def _has_normalised_depthwise_convolutions(encoder: nn.Module) -> bool:
    """Whether it resembles MobileNet and EfficientNet."""
    modules = list(encoder.modules())
    return any(isinstance(one, nn.BatchNorm2d) for one in modules) and any(
        isinstance(one, nn.Conv2d) and 1 < one.groups == one.in_channels for one in modules
    )
