"""`train_clip.py` as a benchmark runs it: the whole program, and what it says of its own time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import CHECKOUT, run_python


@dataclass(frozen=True)
class TrainedFold:
    """Seconds of one fold.

    seconds: all that happens once the packages are imported: building model and optimiser, scoring
    the untrained model, all epochs, every file. epoch_seconds: of each epoch, training,
    augmentation, validation and scores, without what is written between epochs.
    n_train, n_val: images of its sides. val_acc: percent after the last epoch.
    """

    seconds: float
    epoch_seconds: tuple[float, ...]
    n_train: int
    n_val: int
    val_acc: float

    @property
    def per_epoch(self) -> float:
        """Mean seconds of an epoch."""
        return sum(self.epoch_seconds) / len(self.epoch_seconds)

    @property
    def share(self) -> float:
        """Seconds of the fold that fall upon one epoch."""
        return self.seconds / len(self.epoch_seconds)


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its config's folder, its folds, and seconds of the whole command."""

    folder: Path
    folds: tuple[TrainedFold, ...]
    command_seconds: float


def train(
    images: Path,
    config: Mapping[str, Any],
    folder: Path,
    device: str,
    *,
    splits_file: Path | None = None,
    profile: bool = False,
) -> TrainedRun:
    """Run `train_clip.py` with one config in a new folder."""
    folder.mkdir(parents=True)
    config_file = folder / "configs.json"
    config_file.write_text(json.dumps([{"name": "run", **config}]), encoding="utf-8")
    words: list[str | Path] = [CHECKOUT / "train_clip.py", "--data-dir", images]
    words += ["--output-dir", folder, "--log-dir", folder / "logs", "--config-file", config_file]
    words += [] if device == "cpu" else ["--gpus", "0"]
    words += [] if splits_file is None else ["--splits-file", splits_file]
    words += ["--profile"] if profile else []
    done = run_python(words, device)
    run = folder / "run"
    results = sorted(run.glob("fold_*/result.json"), key=lambda file: len(str(file)))
    return TrainedRun(run, tuple(_fold(file.parent) for file in results), done.seconds)


def _fold(folder: Path) -> TrainedFold:
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    return TrainedFold(
        result["seconds"],
        tuple(history["epoch_seconds"]),
        result["n_train"],
        result["n_val"],
        history["val_acc"][-1],
    )
