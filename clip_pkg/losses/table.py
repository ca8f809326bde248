"""One row per objective: how it is built and what it needs.

The keys are the kinds (`type`) of the config's union in `clip_pkg.config.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from clip_pkg.config.losses import (
    ClipLossConfig,
    LossConfig,
    SuperClipLossConfig,
    WeightMethod,
)
from clip_pkg.losses.clip import build_clip
from clip_pkg.losses.contract import Objective, PartLabel, TrainingSet
from clip_pkg.losses.superclip import build_superclip


@dataclass(frozen=True)
class LossRow:
    """What the engine has to know of an objective before it trains with it.

    config_class: its block in the config.
    build: (config block, training set) -> objective.
    parts: its unweighted parts by name, and how people see them.
    owns_parameters: has parameters that must reach the optimiser and the checkpoint.
    needs_two_views: wants two augmented views of each image.
    smallest_batch: images per training batch below which it teaches nothing.
    soft_targets: can take mixed or smoothed labels.
    source: paper and equation.
    """

    config_class: type[LossConfig]
    build: Callable[[Any, TrainingSet], Objective]
    parts: Mapping[str, PartLabel]
    owns_parameters: bool
    needs_two_views: bool
    smallest_batch: int
    soft_targets: bool
    source: str


CONTRASTIVE = PartLabel("Contrastive", "clip", "Loss/Contrastive")
CLASS = PartLabel("Class", "cls", "Loss/Class")

LOSSES: Mapping[str, LossRow] = MappingProxyType(
    {
        "clip": LossRow(
            config_class=ClipLossConfig,
            build=build_clip,
            parts={"contrastive": CONTRASTIVE},
            owns_parameters=False,
            needs_two_views=False,
            smallest_batch=2,
            soft_targets=False,
            source="Radford et al. 2021, arXiv:2103.00020, figure 3",
        ),
        "superclip": LossRow(
            config_class=SuperClipLossConfig,
            build=build_superclip,
            parts={"class": CLASS, "contrastive": CONTRASTIVE},
            owns_parameters=False,
            needs_two_views=False,
            smallest_batch=2,
            soft_targets=False,
            source="Zhao et al. 2025, arXiv:2512.14480; focal form: Lin et al. 2017, equation 5",
        ),
    }
)


def class_weight_method(
    loss_config: LossConfig, weight_method: WeightMethod
) -> WeightMethod | None:
    """How the class weights in `TrainingSet.class_weights` are to be made for this objective.

    Args:
        loss_config: the config's `loss` block.
        weight_method: the config's own, which `class_weighting: auto` refers to.

    Returns:
        The method, or None when the objective takes no class weights.
    """
    chosen: WeightMethod | str | None = getattr(loss_config, "class_weighting", None)
    if chosen is None or chosen == "none":
        return None
    return weight_method if chosen == "auto" else chosen  # type: ignore[return-value]


def build_objective(loss_config: LossConfig, training_set: TrainingSet) -> Objective:
    """Build the objective that a config's `loss` block describes."""
    kind: str = loss_config.type  # type: ignore[attr-defined]
    return LOSSES[kind].build(loss_config, training_set)
