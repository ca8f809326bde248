"""Builds losses from their config classes, which are the registry: `config.loss_blocks`.

A class names its `builder` instead of importing it, so that configs are read without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from clip_pkg.config.auxiliary_losses import AuxConfig
from clip_pkg.config.loss_blocks import LossBlock, LossConfig
from clip_pkg.config.pretraining import QueueConfig
from clip_pkg.config.two_view_losses import InfoNceViewsConfig, PretrainLossConfig
from clip_pkg.losses.contract import ComposedObjective, TrainingSet
from clip_pkg.losses.two_views import QueuedInfoNce, TwoViewLoss


def builder(block: LossBlock | type[LossBlock]) -> Any:
    """Callable that builds a loss: `(config, TrainingSet)`, or `(config)` of a two-view loss."""
    module, _, name = block.builder.partition(":")
    return getattr(import_module(f"clip_pkg.losses.{module}"), name)


def build_objective(
    loss_config: LossConfig, training_set: TrainingSet, aux_losses: Sequence[AuxConfig] = ()
) -> ComposedObjective:
    """Build the objective that a config's `loss` and `aux_losses` describe.

    Random weights come from torch's global generator, in the order of the config.
    """
    main = builder(loss_config)(loss_config, training_set)
    return ComposedObjective(
        main, {aux.type: (aux.weight, builder(aux)(aux, training_set)) for aux in aux_losses}
    )


def build_two_view_loss(
    config: PretrainLossConfig, *, queue: QueueConfig | None = None, dim: int
) -> TwoViewLoss:
    """Build the loss that a config's `pretrain.loss` and `pretrain.queue` describe.

    Args:
        config: its block.
        queue: of negatives, for `info_nce` only.
        dim: size of the projected views.
    """
    if queue is not None:
        assert isinstance(config, InfoNceViewsConfig), "the config checks it"
        return QueuedInfoNce(config, queue, dim)
    loss: TwoViewLoss = builder(config)(config)
    return loss
