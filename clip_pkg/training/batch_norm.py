"""Batch normalisation where a batch goes through the encoder in micro-batches.

A layer normalises by the statistics of a micro-batch. Its running statistics, for evaluation, must
still count every image once, however often a micro-batch is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(encoder: nn.Module) -> tuple[_BatchNorm, ...]:
    """Layers in training mode that normalise an image by the other images of its batch.

    A frozen encoder has none: it is in evaluation mode.
    """
    layers = (module for module in encoder.modules() if isinstance(module, _BatchNorm))
    return tuple(layer for layer in layers if layer.training)


def share_statistics(encoder: nn.Module) -> None:
    """Normalise by the statistics of all ranks together; for GPUs only."""
    for name, child in encoder.named_children():
        encoder.add_module(name, convert_sync_batchnorm(child))


@contextmanager
def counted_as_one_batch(layers: Sequence[_BatchNorm], passes: int) -> Iterator[None]:
    """Let `passes` forward passes move the running statistics as far as one pass does.

    n passes with the momentum 1 − (1 − m)^(1/n) forget as much as one with m. Otherwise the last
    few images would dominate the statistics of many small micro-batches.
    """
    momenta = [layer.momentum for layer in layers]
    try:
        for layer, momentum in zip(layers, momenta, strict=True):
            if momentum is not None:  # None: a plain mean over all passes, which it stays
                layer.momentum = 1 - (1 - momentum) ** (1 / passes)
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@contextmanager
def restored_afterwards(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Restore running statistics after a backward pass that repeats forward passes.

    The repeated pass must be the same to autograd, so the layers still track statistics.
    """
    tracked = [
        value
        for layer in layers
        for value in (layer.running_mean, layer.running_var, layer.num_batches_tracked)
        if value is not None
    ]
    kept = [value.clone() for value in tracked]
    try:
        yield
    finally:
        for value, before in zip(tracked, kept, strict=True):
            value.copy_(before)


@contextmanager
def not_counted(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Leave running statistics unchanged; training passes still normalise by their batch."""
    tracking = [layer.track_running_stats for layer in layers]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer, tracks in zip(layers, tracking, strict=True):
            layer.track_running_stats = tracks
