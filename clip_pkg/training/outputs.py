"""The files of one fold: checkpoints, predictions, sampler exposure."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from clip_pkg.base.files import write_text
from clip_pkg.config.load import dump_canonical
from clip_pkg.models.checkpoint import save_checkpoint
from clip_pkg.models.classifier import class_features, evaluation_mode
from clip_pkg.study.predictions import Predictions
from clip_pkg.training.epoch import Evaluation
from clip_pkg.training.setup import EvalSide, FoldSetup

# Checkpoints may take this share of the training time; small models are saved every epoch, large
# ones as often as that allows, so that writing never dominates and a crash costs little.
TIME_SHARE = 0.05


class Cadence:
    """Says when the next checkpoint is due, from what the last one cost."""

    def __init__(self) -> None:
        self._cost = 0.0
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        """Whether enough time has passed since the last checkpoint to pay for another."""
        return time.monotonic() - self._saved_at >= self._cost / TIME_SHARE

    def record(self, seconds: float) -> None:
        """Note that writing took `seconds` and ended now."""
        self._cost = seconds
        self._saved_at = time.monotonic()


@dataclass(frozen=True)
class BestModel:
    """A best epoch that is not on the disk yet."""

    epoch: int
    metrics: Mapping[str, float | None]
    model: Mapping[str, Any]
    objective: Mapping[str, Any]
    class_features: Tensor | None
    evaluation: Evaluation


def snapshot(
    setup: FoldSetup, epoch: int, metrics: Mapping[str, float | None], evaluation: Evaluation
) -> BestModel:
    """Copy the model as it is now; later steps do not change the copy."""

    def copied(state: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: value.detach().clone() if torch.is_tensor(value) else value
            for key, value in state.items()
        }

    return BestModel(
        epoch,
        dict(metrics),
        copied(setup.model.checkpoint_state()),
        copied(setup.objective.state_dict()),
        _class_features(setup),
        evaluation,
    )


def write_best(setup: FoldSetup, best: BestModel) -> None:
    """Write `predictions.csv`, and `checkpoint_best.pth` unless the config wants none.

    Test images are looked at with it in the end; a config that wants none has it until then.
    """
    paths = setup.task.paths
    predictions(setup.val, best.evaluation).write(paths.predictions)
    if setup.config.save_best or setup.test is not None:
        save_checkpoint(
            paths.checkpoint_best,
            {
                **_inference_state(setup),
                "epoch": best.epoch,
                "metrics": dict(best.metrics),
                "model": dict(best.model),
                "objective": dict(best.objective),
                "class_features": best.class_features,
            },
        )


def write_latest(
    setup: FoldSetup,
    *,
    epoch: int,
    metrics: Mapping[str, float | None],
    run_state: Mapping[str, Any],
    finished: bool,
) -> None:
    """Write `checkpoint_latest.pth`; `run_state` is what a continued run needs besides the model.

    A finished fold is never continued, and the optimiser is two thirds of the file: it is left out.
    """
    save_checkpoint(
        setup.task.paths.checkpoint_latest,
        {
            **_inference_state(setup),
            **run_state,
            "epoch": epoch,
            "metrics": dict(metrics),
            "model": setup.model.checkpoint_state(),
            "objective": setup.objective.state_dict(),
            "class_features": _class_features(setup),
            "optimisation": None if finished else setup.optimisation.state_dict(),
        },
    )


def predictions(side: EvalSide, evaluation: Evaluation) -> Predictions:
    """Name the images and classes of an evaluation of a side."""
    return Predictions(
        classes=side.manifest.classes,
        paths=tuple(side.manifest.paths[index] for index in evaluation.index),
        targets=evaluation.targets,
        probabilities=evaluation.probabilities,
    )


def write_exposure(setup: FoldSetup, epochs: int) -> None:
    """Write how often each training image was shown: `sampler_exposure.csv`."""
    manifest = setup.manifest
    counts = setup.train.exposure(epochs).counts.tolist()
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("path", "label", "times_seen"))
    for index, count in zip(setup.train_indices.tolist(), counts, strict=True):
        writer.writerow((manifest.paths[index], manifest.classes[manifest.labels[index]], count))
    write_text(setup.task.paths.exposure, stream.getvalue())


@torch.no_grad()
def _class_features(setup: FoldSetup) -> Tensor | None:
    """What images are compared with; with it no text tower is needed to predict."""
    with evaluation_mode(setup.model, setup.objective):
        features = class_features(setup.model, setup.precision)
    return None if features is None else features.cpu()


def _inference_state(setup: FoldSetup) -> dict[str, Any]:
    """What turns weights and class features into a classifier again."""
    return {
        "identity": asdict(setup.task.identity),
        "fold": setup.task.fold,
        "config": dump_canonical(setup.task.config),
        "classes": list(setup.texts.classes),
        "prompts": [list(prompts) for prompts in setup.texts.prompts],
        "class_counts": setup.class_counts.tolist(),
        "vocabulary_size": setup.model.vocabulary_size,
        "transform": {
            "img_size": setup.config.img_size,
            "store_size": setup.augmentation.store_size,
            "mean": list(setup.model.image_encoder.mean),
            "std": list(setup.model.image_encoder.std),
        },
    }
