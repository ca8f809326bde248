"""Precision and memory format of a training step, and which of them a device is fastest in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.measurement import Step, timed, warm_up


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
HOPELESS = 1.5  # times slower than the fastest in the first round
ROUNDS = 3  # at least; more where a step is short
SECONDS = 2.0  # that the rounds of all formats together last, at least


def fastest(make_step: Callable[[Format], Step], device: torch.device) -> Format:
    """Format in which the step that `make_step` returns takes least, in the median of its rounds.

    Formats take turns, so that a machine that slows down slows all of them.
    """
    steps = {one: make_step(one) for one in FORMATS}
    for step in steps.values():
        warm_up(step, device)
    seconds = {one: [timed(step, device, 1)] for one, step in steps.items()}
    bar = HOPELESS * min(first for (first,) in seconds.values())
    hopeful = [one for one in FORMATS if seconds[one][0] <= bar]
    spent, rounds = 0.0, 1
    while rounds < ROUNDS or spent < SECONDS:
        for one in hopeful:
            seconds[one].append(timed(steps[one], device, 1))
            spent += seconds[one][-1]
        rounds += 1
    return min(hopeful, key=lambda one: median(seconds[one]))
