"""In which precision the towers run. Logits and losses are always float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class Precision:
    """dtype of the towers' forward pass; None means float32 throughout."""

    device_type: str
    dtype: torch.dtype | None

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
    device: torch.device, *, use_amp: bool, amp_dtype: Literal["auto", "bfloat16", "float16"]
) -> Precision:
    """Pick what the device is fast in.

    On CPUs that is bfloat16 where matrix units (AMX) exist and float32 elsewhere: emulated
    bfloat16 is slower than float32, and float16 has no CPU training support.
    """
    if not use_amp:
        return Precision(device.type, None)
    if device.type == "cpu":
        fast = torch.cpu._is_amx_tile_supported() and amp_dtype != "float16"
        return Precision("cpu", torch.bfloat16 if fast else None)
    if amp_dtype == "auto":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return Precision(device.type, dtype)
    return Precision(device.type, getattr(torch, amp_dtype))
