"""Start of a log: the settings block, and notices that belong beside the result."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from clip_pkg.config.loss_blocks import LossConfig, WeightMethod, term_labels
from clip_pkg.config.rules import corrects_imbalance_twice
from clip_pkg.config.schema import RunConfig
from clip_pkg.models.image_text import ImageTextModel
from clip_pkg.study.tasks import ModelTask
from clip_pkg.training.batch_norm import batch_norms
from clip_pkg.training.ranks import Ranks


def setting_lines(
    block: BaseModel, left_out: Collection[str], effective: Mapping[str, Any] | None = None
) -> list[tuple[str, str]]:
    """`(key, value)` pairs of a block's settings, except for some.

    effective: by key, values that the training uses where they may differ from the config's; the
    config's is then added, as in `amp_dtype: float32 (config: auto)`.
    """
    used = effective or {}
    return [
        (name, _used(value, used.get(name, value))) for name, value in block if name not in left_out
    ]


def _used(configured: Any, effective: Any) -> str:
    text = _value(effective)
    return text if effective == configured else f"{text} (config: {_value(configured)})"


def loss_lines(config: RunConfig, weights: Mapping[str, float]) -> list[tuple[str, str]]:
    """`(name, value)` pairs of the losses; weights: of the terms in the total.

    First the settings with a title, by the title, then the weights of several terms, then all
    other settings by their keys.
    """
    labels = term_labels([config.loss, *config.aux_losses])
    shown = type(config.loss).model_fields
    settings = _settings(config.loss, config.weight_method)
    lines = [
        ("Loss Type", config.loss.type),
        *(line for name, line in settings.items() if shown[name].title),
        *(
            (f"  → {labels[name].label} weight", _two_decimals(weight))
            for name, weight in weights.items()
            if len(weights) > 1
        ),
        *(line for name, line in settings.items() if not shown[name].title),
    ]
    for aux in config.aux_losses:
        lines.append(("Auxiliary Loss", aux.type))
        lines += [
            (f"  {name}", value) for name, value in _settings(aux, config.weight_method).values()
        ]
    return lines


def _settings(block: LossConfig, weight_method: WeightMethod) -> dict[str, tuple[str, str]]:
    """Lines of a loss block by setting; weight_method: the config's."""
    fields = type(block).model_fields
    weights = {*block.weight_settings, *block.share_settings}
    used = {"class_weighting": block.class_weight_method(weight_method) or "none"}
    return {
        name: (
            fields[name].title or name,
            _two_decimals(value) if name in weights else _used(value, used.get(name, value)),
        )
        for name, value in block.settings().items()
    }


def _two_decimals(value: float) -> str:
    """Two decimals, or as many as the value needs."""
    short = f"{value:.2f}"
    return short if math.isclose(float(short), value) else f"{value:g}"


def _value(value: Any) -> str:
    if isinstance(value, BaseModel):
        return ", ".join(f"{name} {_value(inner)}" for name, inner in value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def fold_notices(task: ModelTask, model: ImageTextModel, ranks: Ranks) -> tuple[str, ...]:
    """One sentence per circumstance that affects a fold's numbers without being visible there."""
    notices, config = [], task.config
    if corrects_imbalance_twice(config):
        by_loss, remedy = (
            (f'"{config.loss.type}"', "use_weighted_sampling to false")
            if config.loss.adjusts_for_counts
            else ("the class weights of the loss", 'loss.class_weighting to "none"')
        )
        notices.append(
            f"Class imbalance is corrected twice: by weighted sampling and by {by_loss}. Set "
            f"{remedy} to correct it once."
        )
    norms, at_once = batch_norms(model.image_encoder), task.images_at_once
    consequence = (
        "batch normalisation used their statistics. Losses and their negatives are still computed "
        "over whole batches."
    )
    if norms and at_once < config.batch_size:
        reason = (
            f"{task.title.capitalize()} ran out of memory, so its"
            if at_once != config.micro_batch_size
            else "Because of micro_batch_size,"
        )
        notices.append(
            f"{reason} batches of {config.batch_size} images went through the image encoder in "
            f"micro-batches of {at_once}: {consequence}"
        )
    if norms and ranks.are_several and model.counts.device.type == "cpu":
        notices.append(
            f"{task.title.capitalize()} was trained by {ranks.size} processes on the CPU, each "
            f"with its share of every batch: {consequence}"
        )
    return tuple(notices)
