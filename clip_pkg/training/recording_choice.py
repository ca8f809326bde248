"""Whether a fold's training step is recorded as a CUDA graph, and what is to be told about it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clip_pkg.data.batches import Batch
from clip_pkg.losses.registry import AUXILIARY, LOSSES
from clip_pkg.training.cuda_graph import CudaRecorder
from clip_pkg.training.image_forward import WholeBatch
from clip_pkg.training.recording import Recorder, Unrecordable, with_recording
from clip_pkg.training.setup import FoldSetup
from clip_pkg.training.step import TrainingStep

# Estimates. Recording takes as long as a few steps, and a second set of activations; large batches
# keep a GPU busy for longer than the host needs to start their kernels.
PAYS_FROM_STEPS = 500
PAYS_UP_TO_PIXELS = 64 * 224 * 224


def is_wanted(setup: FoldSetup) -> bool:
    """Whether the key `cuda_graphs` asks for a recording; "auto" only where it can be and pays."""
    config = setup.config
    if config.cuda_graphs == "auto":
        return (
            obstacle(setup) is None
            and len(setup.train) * config.epochs >= PAYS_FROM_STEPS
            and config.batch_size * config.img_size**2 <= PAYS_UP_TO_PIXELS
        )
    return config.cuda_graphs


def recorded_if_possible(
    setup: FoldSetup, step: TrainingStep, batch: Batch
) -> tuple[TrainingStep, str]:
    """Return the step as it is to be taken, and a sentence about it.

    batch: one of those to come.
    """
    reason = obstacle(setup)
    if reason is None:
        recorder = recorder_for(setup.device, [step.negatives_generator])
        assert recorder is not None, "that would be an obstacle"
        try:
            return with_recording(step, batch, recorder), (
                "The training step was recorded and replayed as a CUDA graph, which can change its "
                "numbers by rounding."
            )
        except Unrecordable as error:
            reason = str(error)
    return step, f"The training step was not recorded as a CUDA graph: {reason}."


def recorder_for(device: torch.device, generators: Sequence[torch.Generator]) -> Recorder | None:
    """What records on a device, where something does."""
    if device.type == "cuda" and torch.version.hip is None:
        return CudaRecorder(device, generators)
    return None


def obstacle(setup: FoldSetup) -> str | None:
    """Why the steps of a fold cannot be recorded, as far as that can be known before."""
    config, encoder = setup.config, setup.model.image_encoder
    rows = [LOSSES[config.loss.type], *(AUXILIARY[aux.type] for aux in config.aux_losses)]
    kinds = [config.loss.type, *(aux.type for aux in config.aux_losses)]
    waiting = [
        f'"{kind}"' for kind, row in zip(kinds, rows, strict=True) if not row.can_be_recorded
    ]
    obstacles = {
        f"it runs on {setup.device}, and only NVIDIA GPUs can": (
            recorder_for(setup.device, []) is None
        ),
        "several processes share every batch": setup.ranks.are_several,
        "batches go through the image encoder in parts": (
            not isinstance(setup.image_side, WholeBatch)
        ),
        "in float16 the host decides how the loss is scaled": setup.precision.needs_scaling,
        "the image encoder is compiled": encoder.is_compiled,
        "activation_checkpointing puts random numbers back": encoder.recomputes,
        f"the loss {' and '.join(waiting)} waits for the device": bool(waiting),
        "--profile looks at its parts": setup.task.profile,
        f"no batch has {config.batch_size} images": len(setup.train_indices) < config.batch_size,
    }
    return next((reason for reason, is_so in obstacles.items() if is_so), None)
