"""Results from before numerics had a version are resumed, summarised and predicted with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_pkg.cli import main
from clip_pkg.config.schema import RunConfig
from clip_pkg.study.identity import VERSION_OF_CODE_DIGEST, config_digest
from clip_pkg.study.tasks import FoldTask, PretrainTask, RefitTask, read_task
from support.tiny import TINY

(CODE,) = VERSION_OF_CODE_DIGEST
FLAGS = {
    "stage": "training",
    "starts_from": None,
    "test_manifest_file": None,
    "test_pixel_store": None,
}


def as_before(content: dict[str, Any], code: str = CODE) -> dict[str, Any]:
    """The content of a file or checkpoint as it was: a digest of the sources, no version."""
    content = {key: value for key, value in content.items() if key != "files"}
    identity = {key: value for key, value in content["identity"].items() if key != "numerics"}
    return {**content, "identity": {**identity, "code": code}}


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))))


def make_old(folder: Path, code: str = CODE) -> None:
    rewrite(folder / "identity.json", lambda one: as_before({"identity": one}, code)["identity"])
    for path in folder.glob("fold_*/result.json"):
        rewrite(path, lambda one: as_before(one, code))
    for path in folder.glob("fold_*/task.json"):
        rewrite(
            path, lambda one: FLAGS | {k: v for k, v in as_before(one, code).items() if k != "kind"}
        )
    for path in folder.glob("fold_*/*.pth"):
        torch.save(as_before(torch.load(path, weights_only=True), code), path)


def test_a_folder_of_the_former_revision(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path, images: Path
) -> None:
    configs = write_configs({"name": "a", "epochs": 1})
    train("--config-file", configs)
    folder = tmp_path / "out/a"
    make_old(folder)
    first = (folder / "fold_1/result.json").read_bytes()
    (folder / "fold_2/result.json").unlink()
    train("--config-file", configs)
    assert (folder / "fold_1/result.json").read_bytes() == first
    summary = json.loads((folder / "cv_summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == {"fold_1": "done", "fold_2": "done"}
    answer = tmp_path / "predictions.csv"
    words = ["predict", folder, "--images", images, "--output", answer]
    assert main([str(word) for word in words]) == 0
    assert len(answer.read_text(encoding="utf-8").splitlines()) == 31

    make_old(folder, code="0" * 64)  # of a revision that trained to other numbers
    assert "numerics version" in train("--config-file", configs, check=2)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, FoldTask),
        ({"fold": 0, "folds_info_file": None}, RefitTask),
        ({"stage": "pretraining", "class_texts_file": ""}, PretrainTask),
    ],
)
def test_task_files_with_flags(tmp_path: Path, changes: dict[str, Any], kind: type[Any]) -> None:
    content = {
        "identity": dict.fromkeys(("config", "data", "splits", "class_texts"), "x")
        | {"code": CODE},
        "config": {**TINY, "name": "a"},
        "fold": 1,
        "n_folds": 2,
        "run_dir": "/out/a",
        "manifest_file": "/m",
        "folds_info_file": "/f",
        "class_texts_file": "/t",
        "pixel_store": None,
        "cache_dir": "/c",
        "n_images": 30,
        "gpus": 1,
        "micro_batch_size": None,
        "resume_from": None,
        "profile": False,
        "cache_limit": None,
        **FLAGS,
        **changes,
    }
    path = tmp_path / "task.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    task = read_task(path)
    assert type(task) is kind
    assert task.identity.numerics == 1


def test_digests_of_configs_are_those_of_old_folders() -> None:
    assert config_digest(RunConfig()).startswith("5eaa54ac334b4cbb")
    values = {"learning_rate": 3.3e-5, "loss": {"type": "superclip"}}
    aux = [{"type": "center", "weight": 0.1}]
    found = config_digest(RunConfig.model_validate({**values, "aux_losses": aux}))
    assert found.startswith("3bc67b0ffdffd2c0")
