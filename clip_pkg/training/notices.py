"""What everybody who reads a fold's result should know of how it came about."""

from __future__ import annotations

from clip_pkg.config.schema import RunConfig
from clip_pkg.losses.registry import class_weight_method
from clip_pkg.models.image_text import ImageTextModel
from clip_pkg.study.tasks import ModelTask
from clip_pkg.training.batch_norm import batch_norms
from clip_pkg.training.ranks import Ranks


def fold_notices(
    task: ModelTask, config: RunConfig, model: ImageTextModel, ranks: Ranks
) -> tuple[str, ...]:
    """One sentence per thing that a fold's numbers cannot tell by themselves."""
    notices = []
    if config.use_weighted_sampling and class_weight_method(config.loss, config.weight_method):
        notices.append(
            "Class imbalance is corrected twice: by weighted sampling and by the class weights of "
            'the loss. Set loss.class_weighting to "none" to correct it once.'
        )
    norms, most = batch_norms(model.image_encoder), task.images_at_once
    consequence = (
        "batch normalisation used the statistics of these. Losses and their negatives are of whole "
        "batches as ever."
    )
    if norms and most < config.batch_size:
        reason = (
            f"{task.title.capitalize()} ran out of memory, so its"
            if most != config.micro_batch_size
            else "As micro_batch_size says,"
        )
        notices.append(
            f"{reason} batches of {config.batch_size} images went through the image encoder in "
            f"micro-batches of {most}: {consequence}"
        )
    if norms and ranks.are_several and model.counts.device.type == "cpu":
        notices.append(
            f"{task.title.capitalize()} was trained by {ranks.size} processes on the CPU, each "
            f"with its part of every batch: {consequence}"
        )
    return tuple(notices)
