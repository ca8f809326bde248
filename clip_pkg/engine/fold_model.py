"""The model and the objective of a fold, on its device: new ones, or what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from clip_pkg.checkpoint import load_checkpoint
from clip_pkg.classifier import objective_for
from clip_pkg.config.schema import RunConfig
from clip_pkg.data.random_streams import derive_seed
from clip_pkg.data.text_cache import TextCache
from clip_pkg.encoders.state import load_strictly
from clip_pkg.engine.batch_norm import share_statistics
from clip_pkg.engine.ranks import Ranks
from clip_pkg.losses.contract import Objective
from clip_pkg.model import ImageTextModel, build_model
from clip_pkg.paths import FoldPaths
from clip_pkg.planning.class_texts import ClassTexts
from clip_pkg.planning.tasks import FoldTask
from clip_pkg.precision import Precision, choose_precision


@dataclass(frozen=True)
class FoldModel:
    """What a fold trains, in the memory format of its precision.

    remarks: for the log, on where the features of a frozen text encoder come from.
    """

    model: ImageTextModel
    objective: Objective
    precision: Precision
    remarks: tuple[str, ...]


def build_fold_model(
    task: FoldTask,
    config: RunConfig,
    texts: ClassTexts,
    class_counts: Sequence[int],
    *,
    device: torch.device,
    state: Mapping[str, Tensor] | None,
    ranks: Ranks,
) -> FoldModel:
    """Build them; `state` of a checkpoint takes the place of initial or pretrained weights.

    class_counts: images per class that the fold trains on, [C]. Of several ranks all have the
    weights of the first one.

    Initial weights depend on (random_state, fold) alone, so that configs that differ only in
    their loss start from the same model. Those of a text tower that is not trained depend on
    random_state alone: one run of it serves all folds.
    """
    remarks: list[str] = []
    cache = TextCache(Path(task.cache_dir), task.cache_limit, remarks.append)
    torch.manual_seed(derive_seed(config.random_state, task.fold, "initial weights"))
    model = build_model(
        config,
        texts.classes,
        texts.prompts,
        state=state,
        text_seed=derive_seed(config.random_state, "frozen text encoder"),
        text_features=cache.features,
    )
    if state is None and task.starts_from is not None:
        remarks.append(_start_from(FoldPaths(Path(task.starts_from)).encoder, model))
    model = model.to(device)
    if ranks.are_several and device.type == "cuda" and not config.freeze_image_encoder:
        share_statistics(model.image_encoder)
    if config.activation_checkpointing:
        model.image_encoder.recompute_activations()
    precision = precision_of(config, device, model.image_encoder)
    model = model.to(memory_format=precision.memory_format)
    objective = objective_for(config, class_counts, model.vocabulary_size).to(device)
    for module in (model, objective):
        ranks.copy_from_leader([*module.parameters(), *module.buffers()])
    return FoldModel(model, objective, precision, tuple(remarks))


def _start_from(encoder: Path, model: ImageTextModel) -> str:
    """Give the image encoder the weights of a pre-training; returns what is to be told."""
    content = load_checkpoint(encoder)
    load_strictly(model.image_encoder, content["image_encoder"], source=str(encoder))
    return f"The image encoder starts from {encoder}, pre-trained for {content['epoch']} epochs"


def precision_of(config: RunConfig, device: torch.device, encoder: nn.Module) -> Precision:
    """Choose the precision that a config asks for, of an encoder on a device."""
    return choose_precision(
        device,
        encoder,
        img_size=config.img_size,
        use_amp=config.use_amp,
        amp_dtype=config.amp_dtype,
    )
