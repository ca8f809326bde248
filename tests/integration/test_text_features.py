"""Frozen text encoders: one run for all folds and configs, and the numbers of none kept at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_pkg.study.tasks import FoldTask, read_task
from clip_pkg.training.worker import StopRequest, TaskPlacement, TaskReport, carry_out
from support.outcomes import outcome

Train = Callable[..., str]

FROZEN = {
    "text_encoder_name": "clip:ViT-S-32-alt:scratch",
    "freeze_text_encoder": True,
    "epochs": 1,
    "n_splits": 3,
}
CONFIGS = [
    {**FROZEN, "name": "a"},
    {**FROZEN, "name": "b", "use_superclip_loss": True},
    {**FROZEN, "name": "c", "text_template": "an image of {}", "use_cv": False},
]


def origins(root: Path) -> list[str]:
    """What the logs say of text features, `Computed` or `Found`, and forget it."""
    folder = root / "logs/clip_training"
    logs = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.log")))
    shutil.rmtree(folder)
    return [line.split()[0] for line in logs.splitlines() if "the features of " in line]


def test_six_folds_compute_once_and_have_the_numbers_of_folds_that_compute_for_themselves(
    train: Train, write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    train("--config-file", write_configs(*CONFIGS), "--multi-config", output="cold")
    # Two configs have the same texts, the third one has others.
    assert origins(tmp_path) == ["Computed", *["Found"] * 5, "Computed"]
    kept = {
        path: path.read_bytes() for path in (tmp_path / "cold/.cache").glob("texts-*.safetensors")
    }
    assert len(kept) == 2

    path = write_configs(CONFIGS[0])
    train("--config-file", path, "--cache-dir", tmp_path / "cold/.cache", output="warm")
    assert origins(tmp_path) == ["Found"] * 3
    assert all(path.read_bytes() == content for path, content in kept.items())

    train("--config-file", path, "--cache-limit", "0", output="without")
    assert origins(tmp_path) == ["NOTE:"] * 3
    assert not list((tmp_path / "without/.cache").glob("texts-*.safetensors"))

    cold, warm, without = (outcome(tmp_path / run / "a") for run in ("cold", "warm", "without"))
    assert "fold_3/checkpoint_latest.pth" in cold
    assert cold == warm == without


class OnceThere:
    """Asks for an end as soon as a file is there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __bool__(self) -> bool:
        return self._path.exists()


@pytest.mark.parametrize("text", ["clip:ViT-S-32-alt:scratch", "prompts:clip:ViT-S-32-alt:scratch"])
def test_an_interrupted_fold_goes_on_without_the_cache(
    train: Train, write_configs: Callable[..., Path], tmp_path: Path, text: str
) -> None:
    frozen = not text.startswith("prompts")
    config = {**FROZEN, "name": "a", "text_encoder_name": text, "freeze_text_encoder": frozen}
    path = write_configs({**config, "epochs": 2, "use_cv": False})
    train("--config-file", path)
    whole = outcome(tmp_path / "out/a/fold_1")
    task = read_task(tmp_path / "out/a/fold_1/task.json")
    assert isinstance(task, FoldTask)
    moved = replace(task, run_dir=tmp_path / "again/a")
    moved.run_dir.mkdir(parents=True)
    place = TaskPlacement("cpu", "cpu", torch.get_num_threads(), "")  # as many as have just trained

    def attempt(stop: Any) -> TaskReport:
        with (tmp_path / "log").open("a", encoding="utf-8") as log:
            return carry_out(moved, place, log, stop)

    assert attempt(OnceThere(moved.paths.history)).state == "interrupted"
    (kept,) = task.cache_dir.glob("texts-*.safetensors")
    kept.write_bytes(b"damaged")
    report = attempt(StopRequest())
    assert report.state == "done", report
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert log.count("Found the features of 3 texts") == 1
    assert "damaged" not in log
    assert "Resumed after epoch 1" in log
    assert outcome(moved.paths.root) == whole
