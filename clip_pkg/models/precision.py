"""In which precision and memory format the towers run. Logits and losses are always float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

# Below, to prepare small convolutions for a CPU's matrix units costs more than these save: a step
# of resnet18 at 32 px takes 69 ms in float32 and 88 in bfloat16, at 64 px 167 and 135.
SMALLEST_MATRIX_UNIT_IMAGE = 48


@dataclass(frozen=True)
class Precision:
    """How the towers compute.

    dtype: of their forward pass; None means float32 throughout. memory_format: of images and
    convolution kernels.
    """

    device_type: str
    dtype: torch.dtype | None
    memory_format: torch.memory_format = torch.channels_last

    @property
    def needs_scaling(self) -> bool:
        """float16 gradients underflow without a scaled loss; bfloat16's do not."""
        return self.dtype is torch.float16

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which the towers run."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def text_autocast(self) -> AbstractContextManager[object]:
        """Context in which the text encoder runs.

        A few short class texts keep a CPU busy with reading the weights; casting them for every
        step first costs more than half precision saves.
        """
        return nullcontext() if self.device_type == "cpu" else self.autocast()

    def __str__(self) -> str:
        return (
            "float32" if self.dtype is None else f"mixed {str(self.dtype).removeprefix('torch.')}"
        )


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take numbers below the normal range as 0 on the CPU, as training does.

    At small temperatures most softmax terms are denormal, and CPUs take a hundredfold for these.
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
    """Pick what the device is fast in, for images of `img_size` pixels.

    On CPUs that is bfloat16 where they can multiply it and float32 elsewhere: emulated bfloat16 is
    slower than float32, and float16 has no CPU training support.

    - Vector units alone (AVX-512 BF16, as in AMD's Zen 4): bfloat16 is faster throughout. A step
      takes, in float32 and bfloat16, 1.88 and 0.97 s (resnet18 at 224 px), 93 and 77 ms (the same
      at 32 px), 0.88 and 0.85 s (efficientnet_b0 at 224 px).
    - Matrix units (AMX): float32 is faster for small images in dense convolutions, and at any size
      for depthwise convolutions with batch normalisation, which have little to multiply (a step of
      efficientnet_b0 at 224 px takes 0.82 s in float32, 1.09 in bfloat16).

    The rule goes by the architectures of processor and model, not by a measurement, so that a
    config has the same numbers every time. `amp_dtype` overrules it.
    """
    if device.type == "cpu":
        small = img_size < SMALLEST_MATRIX_UNIT_IMAGE
        convolutional = _is_convolutional(image_encoder)
        depthwise = _has_normalised_depthwise_convolutions(image_encoder)
        matrix_units = torch.cpu._is_amx_tile_supported()
        able = matrix_units or torch.cpu._is_avx512_bf16_supported()
        slower = matrix_units and (depthwise or (convolutional and small))
        asked = use_amp and amp_dtype != "float16"
        gains = able and asked and (amp_dtype == "bfloat16" or not slower)
        planes = not gains and convolutional and small and not depthwise
        return Precision(
            "cpu",
            torch.bfloat16 if gains else None,
            torch.contiguous_format if planes else torch.channels_last,
        )
    if not use_amp:
        return Precision(device.type, None)
    if amp_dtype == "auto":
        half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return Precision(device.type, half)
    return Precision(device.type, getattr(torch, amp_dtype))


def _is_convolutional(encoder: nn.Module) -> bool:
    """Whether it convolves; transformers do so once, to cut their patches."""
    kernels = [one for one in encoder.modules() if isinstance(one, nn.Conv2d)]
    return len([one for one in kernels if one.stride != one.kernel_size]) > 1


def _has_normalised_depthwise_convolutions(encoder: nn.Module) -> bool:
    """Whether it is of the family of MobileNet and EfficientNet."""
    modules = list(encoder.modules())
    return any(isinstance(one, nn.BatchNorm2d) for one in modules) and any(
        isinstance(one, nn.Conv2d) and 1 < one.groups == one.in_channels for one in modules
    )
