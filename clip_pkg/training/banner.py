"""The settings block at the start of a log: by which loss, what is trained, and on what."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from clip_pkg.config.loss_blocks import LossConfig
from clip_pkg.config.schema import RunConfig
from clip_pkg.losses.registry import part_labels
from clip_pkg.study.tasks import FoldTask
from clip_pkg.training.setup import FoldSetup

NOT_REPEATED = frozenset({"name", "loss", "aux_losses", "image_encoder_name", "text_encoder_name"})


def configuration_lines(setup: FoldSetup, device_id: str) -> list[tuple[str, str]]:
    """`(name, value)` pairs: the loss, the fold, and every other setting."""
    task, config = setup.task, setup.config
    counts = setup.manifest.class_counts.tolist()
    classes = ", ".join(
        f"{name} {n}" for name, n in zip(setup.manifest.classes, counts, strict=True)
    )
    total = sum(p.numel() for p in setup.model.parameters())
    trainable = sum(p.numel() for p in setup.model.parameters() if p.requires_grad)
    lines = [
        *loss_lines(config, setup.objective.part_weights),
        ("Config", task.name),
        (
            "Fold",
            f"{task.fold} of {task.n_folds}" if isinstance(task, FoldTask) else "none is held out",
        ),
        ("Device", f"{device_id} ({setup.precision}), process {os.getpid()}"),
        *_processes(setup),
        ("Image encoder", config.image_encoder_name),
        ("Text encoder", config.text_encoder_name),
        ("Parameters", f"{total:,} ({trainable:,} trained)"),
        ("Images", f"{len(setup.train_indices)} train, {setup.val.size} validation"),
        ("Classes", classes),
        ("Class texts", _class_texts(setup)),
    ]
    return [*lines, *setting_lines(config, NOT_REPEATED)]


def setting_lines(block: BaseModel, left_out: Collection[str]) -> list[tuple[str, str]]:
    """`(name, value)` pairs of a block's settings but for those that are told elsewhere."""
    return [(_title(name), _value(value)) for name, value in block if name not in left_out]


def loss_lines(config: RunConfig, weights: Mapping[str, float]) -> list[tuple[str, str]]:
    """`(name, value)` pairs of the losses; `weights` are those of the parts of the total.

    In the order of the guides: the settings that they show, what each part weighs where there are
    several, then all others.
    """
    labels = part_labels(config.loss, config.aux_losses)
    shown = type(config.loss).model_fields
    settings = _settings(config.loss)
    return [
        ("Loss Type", config.loss.type),
        *(line for name, line in settings.items() if shown[name].title),
        *(
            (f"  → {labels[name].label} weight", _two_decimals(weight))
            for name, weight in weights.items()
            if len(weights) > 1
        ),
        *(line for name, line in settings.items() if not shown[name].title),
        *(line for aux in config.aux_losses for line in _auxiliary(aux)),
    ]


def _settings(block: LossConfig) -> dict[str, tuple[str, str]]:
    """Lines of a loss block by setting, with the names that papers and guides give them."""
    fields = type(block).model_fields
    weights = {*block.part_weights, *block.shares}
    return {
        name: (
            fields[name].title or _title(name),
            _two_decimals(value) if name in weights else _value(value),
        )
        for name, value in block.settings().items()
    }


def _auxiliary(block: LossConfig) -> list[tuple[str, str]]:
    inside = [(f"  {name}", value) for name, value in _settings(block).values()]
    return [("Auxiliary Loss", block.type), *inside]


def _processes(setup: FoldSetup) -> list[tuple[str, str]]:
    if not setup.ranks.are_several:
        return []
    return [("Processes", f"{setup.ranks.size}, each with a device and a part of every batch")]


def _class_texts(setup: FoldSetup) -> str:
    encoder = setup.config.text_encoder
    if encoder.family in ("prompts", "none") and encoder.start is None:
        return "not read"
    prompts = sum(len(rows) for rows in setup.texts.prompts)
    return f"{prompts} prompts from {setup.texts.source}"


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


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
        return "yes" if value else "no"
    return str(value)
