"""Precision and memory format of a training step, and which of them a device is fastest in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from benchmarks.measurement import Step, timed


@dataclass(frozen=True)
class Format:
    """bfloat16: whether a step runs under autocast. channels_last: layout of images and weights."""

    bfloat16: bool
    channels_last: bool

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Context of the forward pass."""
        if not self.bfloat16:
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    @property
    def layout(self) -> torch.memory_format:
        """Of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "contiguous"
        return f"{'bf16' if self.bfloat16 else 'fp32'} {layout}"


FORMATS = tuple(Format(half, last) for half in (True, False) for last in (True, False))
NAMES = {str(one): one for one in FORMATS}
HOPELESS = 2.0  # times slower than the fastest so far in the warm-up


def fastest(make_step: Callable[[Format], Step], device: torch.device, rounds: int = 2) -> Format:
    """Format in which the step that `make_step` returns takes least, at its best of `rounds`."""
    seconds: dict[Format, float] = {}
    for one in FORMATS:
        step = make_step(one)
        timed(step, device, 1)
        first = timed(step, device, 1)
        more = rounds - 1 if first <= HOPELESS * min(seconds.values(), default=first) else 0
        seconds[one] = min([first, *(timed(step, device, 1) for _ in range(more))])
    return min(seconds, key=seconds.__getitem__)
