"""What the tests of the guides look at: the guides themselves, and what a training left."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clip_pkg.results.summary import without_times
from support.tiny import SHARED


def guide(name: str) -> str:
    """Text of a guide; the test is skipped where the guides are not beside the checkout."""
    path = SHARED / f"seeds/guide_{name}.md"
    if not path.exists():
        pytest.skip("the guides are not beside this checkout")
    return path.read_text(encoding="utf-8")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def words(command: str) -> list[str]:
    """Words of a command as a shell sees them."""
    return shlex.split(command.replace("\\\n", " "), comments=True)


def log(folder: Path, name: str = "") -> str:
    """The one log below a working directory, or that of a config."""
    (path,) = (folder / "logs/clip_training").glob(f"{name}*.log")
    return path.read_text(encoding="utf-8")


def folds(results: Path) -> list[Path]:
    found = sorted(results.glob("fold_*"))
    assert found
    return found


def curves(folder: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def single(column: list[float]) -> list[float]:
    """Numbers of a history as an event file can hold them, in single precision."""
    rounded: list[float] = np.array(column, dtype=np.float32).tolist()
    return rounded


def check_curves(results: Path, tags: Mapping[str, str]) -> None:
    """Each fold's event files hold exactly these losses, with the values of its history."""
    columns = {"loss": "Loss/Total", **{f"{part}_loss": tag for part, tag in tags.items()}}
    for fold in folds(results):
        history = read(fold / "history.json")
        for side in ("train", "val"):
            found = curves(results / "tensorboard" / fold.name / side)
            assert {tag for tag in found if tag.startswith("Loss/")} == set(columns.values())
            for column, tag in columns.items():
                assert found[tag] == single(history[f"{side}_{column}"]), tag


def check_total(results: Path, weights: Mapping[str, float]) -> None:
    """The total is the sum of the weighted parts, in each fold's history."""
    for fold in folds(results):
        history = read(fold / "history.json")
        for side in ("train", "val"):
            parts = [w * np.array(history[f"{side}_{name}_loss"]) for name, w in weights.items()]
            np.testing.assert_allclose(history[f"{side}_loss"], sum(parts), rtol=1e-5)


def numbers(results: Path) -> dict[str, Any]:
    """Everything in the summary but the config and times."""
    summary = without_times(read(results / "cv_summary.json"))
    assert summary["complete"]
    return {key: value for key, value in summary.items() if key != "config"}
