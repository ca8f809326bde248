"""Results of other settings or images in a config's folder: named, kept, replaced, brought back."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.tiny import make_folder, paint

Train = Callable[..., str]
WriteConfigs = Callable[..., Path]
ONE_FOLD = {"epochs": 1, "use_cv": False}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_old_and_new_values_are_named_and_only_what_differs_is_replaced(
    train: Train, tmp_path: Path, write_configs: WriteConfigs
) -> None:
    same = {**ONE_FOLD, "name": "same"}
    other = {**ONE_FOLD, "name": "other", "loss": {"type": "clip", "positives": "diagonal"}}
    train("--config-file", write_configs(same, other), "--multi-config")
    trained = (tmp_path / "out/same/fold_1/result.json").read_bytes()
    old = (tmp_path / "out/other/fold_1/result.json").read_bytes()

    changed = {**other, "learning_rate": 0.01, "loss": {"type": "clip"}, "num_workers": 1}
    lists = ["--config-file", write_configs(same, changed), "--multi-config"]
    before = sorted(tmp_path.rglob("*"))
    refused = train(*lists, check=2)
    assert sorted(tmp_path.rglob("*")) == before
    assert f"  {tmp_path}/out/other\n" in refused
    assert "learning_rate: 0.001 → 0.01\n" in refused
    assert 'loss.positives: "diagonal" → "same_class"\n' in refused
    assert "num_workers" not in refused, "it affects no number"
    assert "out/same" not in refused

    shown = train(*lists, "--overwrite")
    assert (tmp_path / "out/same/fold_1/result.json").read_bytes() == trained, "it was kept"
    assert read(tmp_path / "out/other/config.json")["learning_rate"] == 0.01
    (undo,) = [line for line in shown.splitlines() if line.startswith("  mv ")]
    subprocess.run(["bash", "-c", undo], check=True)
    assert (tmp_path / "out/other/fold_1/result.json").read_bytes() == old


def test_other_images_and_texts_are_named(
    train: Train, tmp_path: Path, write_configs: WriteConfigs
) -> None:
    data = make_folder(tmp_path / "data", {"a": 6, "b": 6})
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps({"a": "one", "b": "two"}))
    config = write_configs({"name": "a", **ONE_FOLD, "class_texts_file": "texts.json"})
    train("--config-file", config, data=data)
    paint(data / "a/new.png", 0, 99)
    texts.write_text(json.dumps({"a": "one", "b": "three"}))
    refused = train("--config-file", config, data=data, check=2)
    assert "images: 12 → 13\n" in refused
    assert "class texts of b\n" in refused


@pytest.mark.parametrize("left", ["empty", "no fold trained"])
def test_a_folder_without_results_is_taken_over(
    left: str, train: Train, tmp_path: Path, write_configs: WriteConfigs
) -> None:
    train("--config-file", write_configs({**ONE_FOLD, "name": "a"}))
    fold = tmp_path / "out/a/fold_1"
    for path in [fold / "result.json", *fold.glob("checkpoint_*")]:
        path.unlink()
    if left == "empty":
        shutil.rmtree(tmp_path / "out/a")
        (tmp_path / "out/a").mkdir()
    train("--config-file", write_configs({**ONE_FOLD, "name": "a", "learning_rate": 0.01}))
    assert read(tmp_path / "out/a/config.json")["learning_rate"] == 0.01
    assert read(tmp_path / "out/a/cv_summary.json")["n_folds"] == 1
