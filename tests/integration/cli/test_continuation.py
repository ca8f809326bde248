"""`--continue-pretrain --continue-finetune`: where each stage of a run resumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clip_pkg.base.files import write_json
from clip_pkg.launch.continuation import report_continuation
from clip_pkg.launch.terminal import Terminal
from support.fold_tasks import pretraining, task


def test_a_run_that_begins_and_one_that_is_done(
    train: Callable[..., str], write_configs: Callable[..., Path]
) -> None:
    file = write_configs({"name": "a", "epochs": 1, "use_cv": False})
    said = train("--config-file", file, "--continue-finetune", "--continue-pretrain")
    assert "pre-training: no config of this run has one" in said
    assert "fine-tuning: no checkpoint of this stage: starts from scratch" in said
    assert "fine-tuning: 1 of 1 finished" in train("--config-file", file, "--continue_finetune")
    assert "fine-tuning" not in train("--config-file", file)


def test_each_checkpoint_is_named_with_its_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = [task("a", fold, epochs=9, root=tmp_path) for fold in (1, 2)]
    first = replace(pretraining("a", epochs=200), run_dir=tmp_path / "pretraining" / "x")
    for one, epochs in ((first, 12), (folds[1], 3)):
        one.paths.root.mkdir(parents=True)
        one.paths.checkpoint_latest.touch()
        write_json(one.paths.history, {"train_loss": [1.0] * epochs})
    report_continuation([first, *folds], Terminal(), pretraining=True, training=True)
    assert capsys.readouterr().out.splitlines() == [
        f"pre-training: a pre-training: resumes after epoch 12 of 200 from "
        f"{first.paths.checkpoint_latest}",
        f"fine-tuning: a fold 2: resumes after epoch 3 of 9 from "
        f"{folds[1].paths.checkpoint_latest}",
        "fine-tuning: 1 of 2 without a checkpoint: start from scratch",
    ]
