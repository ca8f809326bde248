"""Pre-trainings as their engine leaves them, beside result folders that are drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_pkg.base.files import write_json
from clip_pkg.base.paths import ConfigPaths, RunPaths
from clip_pkg.results.summary import summarize
from clip_pkg.study.identity import Identity
from clip_pkg.study.tasks import FoldResult, write_record, write_task
from support.fold_tasks import task

IDENTITY = Identity("config", "data", "splits", "texts", "code")
MEASURES = {
    "alignment": 0.3,
    "uniformity": -2.5,
    "effective_rank": 40.0,
    "feature_std": 0.08,
    "knn_acc": 50.0,
    "probe_acc": 60.0,
}
# What the tables ask about besides the name, with its default.
CONFIG = {"random_state": 42, "epochs": 5}


def write_pretraining(
    folder: Path,
    images: str = "all",
    loss: str = "dhel",
    *,
    seed: int = 42,
    runs: Sequence[str] = ("run",),
    measures: dict[str, Any] | None = None,
    seconds: float = 10.0,
) -> None:
    """Let the folds of a drawn result start from `runs`: one for all of them, or one for each."""
    paths = ConfigPaths(folder)
    settings = {} if loss == "vicreg" else {"temperature": 0.3}
    block = {"loss": {"type": loss, **settings}, "images": images, "epochs": 4}
    set_config(paths, pretrain=block, random_state=seed)
    folds = json.loads(paths.folds_info.read_text())["folds"]
    for fold in folds:
        number = fold["fold"]
        name = runs[min(number, len(runs)) - 1]
        before = f"/elsewhere/pretraining/{name}"
        one = task(folder.name, number, n_folds=len(folds), root=folder.parent)
        write_task(replace(one, identity=IDENTITY, starts_from=Path(before)))
    for name in dict.fromkeys(runs):
        write_run(folder.parent, name, {**MEASURES, **(measures or {})}, seconds)
    summarize(paths)


def write_run(output: Path, name: str, last: dict[str, Any], seconds: float) -> None:
    """Write the folder of one pre-training that is done."""
    root = RunPaths(output).pretraining / name
    root.mkdir(parents=True)
    probes: dict[str, float | None] = {"knn_acc": 20.0, "probe_acc": 25.0}
    result = FoldResult(
        IDENTITY, 0, 120, 0, None, 4, False, {}, last, probes, "no image", "cpu", {}, seconds,
        seconds, None, [f"{name} was watched"],
    )  # fmt: skip
    write_record(root / "result.json", result)
    history = {
        "train_loss": [3.0, 2.0, 1.5, 1.0],
        "knn_acc": [None, 35.0, None, last["knn_acc"]],
        "probe_acc": [None, 45.0, None, last["probe_acc"]],
        "train_images_per_second": [100.0, 300.0, 200.0, 200.0],
    }
    write_json(root / "history.json", history)


def set_config(paths: ConfigPaths, **changes: Any) -> None:
    """Change the config of a drawn result and sum it up again."""
    config = json.loads(paths.config.read_text())
    write_json(paths.config, {**CONFIG, **config, **changes})
    summarize(paths)
