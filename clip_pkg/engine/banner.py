"""The settings block at the start of a log: what is trained, on what, by which loss."""

from __future__ import annotations

import os
from typing import Any

from clip_pkg.config.loss_blocks import LossConfig
from clip_pkg.engine.setup import FoldSetup
from clip_pkg.losses.table import part_labels

NOT_REPEATED = frozenset({"name", "loss", "aux_losses", "image_encoder_name", "text_encoder_name"})


def configuration_lines(setup: FoldSetup, device_id: str) -> list[tuple[str, str]]:
    """`(name, value)` pairs in the order in which people ask for them."""
    task, config = setup.task, setup.config
    counts = setup.manifest.class_counts.tolist()
    classes = ", ".join(
        f"{name} {n}" for name, n in zip(setup.manifest.classes, counts, strict=True)
    )
    prompts = sum(len(rows) for rows in setup.texts.prompts)
    total = sum(p.numel() for p in setup.model.parameters())
    trainable = sum(p.numel() for p in setup.model.parameters() if p.requires_grad)
    weights = setup.objective.part_weights
    labels = part_labels(config.loss, config.aux_losses)
    lines = [
        ("Config", task.name),
        ("Fold", f"{task.fold} of {task.n_folds}"),
        ("Device", f"{device_id} ({setup.precision}), process {os.getpid()}"),
        ("Loss Type", config.loss.type),
        *_parameters(config.loss),
        *(line for aux in config.aux_losses for line in _auxiliary(aux)),
        *((f"  → {labels[name].label} weight", f"{weights[name]:.2f}") for name in weights),
        ("Image encoder", config.image_encoder_name),
        ("Text encoder", config.text_encoder_name),
        ("Parameters", f"{total:,} ({trainable:,} trained)"),
        ("Images", f"{len(setup.train_indices)} train, {setup.val.size} validation"),
        ("Classes", classes),
        ("Class texts", f"{prompts} prompts from {setup.texts.source}"),
    ]
    lines += [
        (_title(name), _value(value))
        for name, value in config.model_dump().items()
        if name not in NOT_REPEATED
    ]
    return lines


def _parameters(block: LossConfig) -> list[tuple[str, str]]:
    """Parameters of a loss block by the names that papers and guides give them."""
    return [
        (field.title or _title(name), _value(getattr(block, name)))
        for name, field in type(block).model_fields.items()
        if name != "type"
    ]


def _auxiliary(block: LossConfig) -> list[tuple[str, str]]:
    inside = [(f"  {name}", value) for name, value in _parameters(block)]
    return [("Auxiliary Loss", block.type), *inside]


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _value(value: Any) -> str:
    return (
        {True: "yes", False: "no", None: "none"}.get(value, str(value))
        if (value is None or isinstance(value, bool))
        else str(value)
    )
