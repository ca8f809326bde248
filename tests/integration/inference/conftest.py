"""A trained run of many small configs, and `predict` in this process."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clip_pkg.cli import main
from clip_pkg.config.losses import LOSSES
from support.tiny import TINY

TOWER = {"text_encoder_name": "clip:ViT-S-32-alt:scratch"}
ONE_FOLD = {"use_cv": False, "epochs": 1}
# One config per row of the loss table, whatever rows there are, and what differs in other ways.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    **{
        kind: {**ONE_FOLD, "loss": {"type": kind}, **(TOWER if row.needs_tokens else {})}
        for kind, row in LOSSES.items()
    },
    "folds": {"n_splits": 3, "batch_size": 2, "augmentation": "standard", "use_amp": False},
    "linear": {**ONE_FOLD, "loss": {"type": "ce", "classifier": "linear"}},
    "no_text": {
        **ONE_FOLD,
        "text_encoder_name": "none",
        "loss": {"type": "combined", "lambda_combined": 0.0, "classifier": "linear"},
        "aux_losses": [{"type": "center"}, {"type": "arcface"}],
    },
    "weighted": {
        **ONE_FOLD,
        "loss": {"type": "focal", "classifier": "linear", "class_weighting": "effective_number"},
    },
    "frozen": {**ONE_FOLD, **TOWER, "freeze_text_encoder": True},
    "learned": {**ONE_FOLD, "text_encoder_name": f"prompts:{TOWER['text_encoder_name']}"},
    "cifar_stem": {**ONE_FOLD, "stem": "cifar"},
    "no_best": {**ONE_FOLD, "save_best": False},
}
# One config per kind of image encoder.
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "vit": {**ONE_FOLD, "image_encoder_name": "test_vit:scratch"},
    "clip_vit": {
        **ONE_FOLD,
        "image_encoder_name": "clip:ViT-S-32-alt:scratch",
        "img_size": 64,
        "batch_size": 24,
    },
}


@dataclass(frozen=True)
class Table:
    """A file of answers or of a fold's predictions."""

    columns: list[str]
    paths: list[str]
    predictions: list[str]
    probabilities: NDArray[np.float64]


def read_table(path: Path) -> Table:
    """Read one of either form, without the package's own reader."""
    if path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
    else:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    columns = list(rows[0]) if rows else []
    probabilities = [[float(row[name]) for name in columns if name[:5] == "prob_"] for row in rows]
    return Table(
        columns,
        [row["path"] for row in rows],
        [row["prediction"] for row in rows],
        np.array(probabilities),
    )


@pytest.fixture(scope="session")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a run on the CPU over `CONFIGS`."""
    return trained(CONFIGS, images, tmp_path_factory.mktemp("inference"))


@pytest.fixture(scope="session")
def explained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a run on the CPU over `ENCODERS`."""
    return trained(ENCODERS, images, tmp_path_factory.mktemp("encoders"))


def trained(changes: Mapping[str, Mapping[str, Any]], images: Path, root: Path) -> Path:
    """Train `TINY` with changes in `root`, on the CPU; returns the output folder."""
    configs = [{**TINY, **change, "name": name} for name, change in changes.items()]
    (root / "configs.json").write_text(json.dumps(configs), encoding="utf-8")
    words = ["--data-dir", images, "--output-dir", root / "out", "--log-dir", root / "logs"]
    words += ["--config-file", root / "configs.json", "--multi-config", "--executor", "inline"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert main([str(word) for word in words]) == 0
    return root / "out"


@pytest.fixture
def use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that uses a model on the CPU; returns what was printed."""

    def call(command: str, model: Path, *words: str | Path, check: int = 0) -> str:
        code = main([command, str(model), *map(str, words), "--device", "cpu"])
        shown = capsys.readouterr()
        assert code == check, shown.out + shown.err
        assert "Traceback" not in shown.out + shown.err
        return shown.out + shown.err

    return call


@pytest.fixture
def predict(use: Callable[..., str]) -> Callable[..., str]:
    """Run `predict` on the CPU; returns what was printed."""
    return partial(use, "predict")


@pytest.fixture
def validation_table(images: Path, tmp_path: Path) -> Callable[[Path], Path]:
    """Make a table that names a fold's validation images, in the order of its evaluation."""

    def make(fold: Path) -> Path:
        paths = read_table(fold / "predictions.csv").paths
        table = tmp_path / "validation.csv"
        table.write_text(
            "path\n" + "".join(f"{images / path}\n" for path in paths), encoding="utf-8"
        )
        return table

    return make
