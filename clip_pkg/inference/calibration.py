"""Temperature scaling of a config, fitted on the out-of-fold predictions of its folds. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_pkg.base.errors import UserError, shown
from clip_pkg.base.paths import ConfigPaths, FoldPaths
from clip_pkg.inference.checkpoint_choice import choose_checkpoints
from clip_pkg.metrics.calibration import (
    expected_calibration_error,
    fit_temperature,
    log_loss,
    tempered,
)
from clip_pkg.results.folders import ConfigFiles
from clip_pkg.study.predictions import pooled, read_predictions


@dataclass(frozen=True)
class Scores:
    """nll: mean −log p of the true class, nats. ece: expected calibration error, a fraction."""

    nll: float
    ece: float


@dataclass(frozen=True)
class Calibration:
    """temperature: T, which divides the logits. n: predictions that it was fitted and scored on."""

    temperature: float
    n: int
    before: Scores
    after: Scores

    def __str__(self) -> str:
        return (
            f"T = {self.temperature:.4g}, fitted on {self.n} out-of-fold predictions: "
            f"NLL {self.before.nll:.4f} → {self.after.nll:.4f}, "
            f"ECE {self.before.ece:.4f} → {self.after.ece:.4f}"
        )


def calibrate(model: Path) -> Calibration:
    """Fit the temperature of the config that `model` is, or is part of.

    Raises UserError if there is no such config, if no fold is finished, and if every prediction is
    correct: the likelihood then has no maximum.
    """
    paths = _config_of(model)
    folds, repeats = [], []
    repeat_of = {fold.paths.root: fold.repeat for fold in ConfigFiles.read(paths).folds}
    for checkpoint in choose_checkpoints(paths.root).checkpoints:
        fold = FoldPaths(checkpoint.parent)
        best = checkpoint == fold.checkpoint_best
        folds.append(read_predictions(fold.predictions if best else fold.predictions_last))
        repeats.append(repeat_of[fold.root])
    out_of_fold = pooled(folds, repeats)
    probabilities, targets = out_of_fold.probabilities, out_of_fold.targets
    if (probabilities.argmax(axis=1) == targets).all():
        raise UserError(
            f"--calibrate: all {len(targets)} out-of-fold predictions of {shown(paths.root)} are "
            "correct, so the temperature has no optimum; predict without --calibrate"
        )
    temperature = fit_temperature(probabilities, targets)
    scaled = tempered(probabilities, temperature)
    before, after = (
        Scores(log_loss(values, targets), expected_calibration_error(values, targets))
        for values in (probabilities, scaled)
    )
    return Calibration(temperature, len(targets), before, after)


def _config_of(model: Path) -> ConfigPaths:
    """The config's folder itself, the one of a fold's folder, or of a checkpoint in that."""
    folder = model.absolute()
    for candidate in (folder, folder.parent, folder.parent.parent):
        if ConfigPaths(candidate).folds_info.is_file():
            return ConfigPaths(candidate)
    raise UserError(
        f"--calibrate: {shown(model)} is not in the result folder of a config; the temperature is "
        "fitted on the predictions of its folds"
    )
