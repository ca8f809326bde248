"""Pre-training tasks of small image folders, and a way to carry one out in this process."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clip_pkg.base.files import write_json
from clip_pkg.config.schema import RunConfig
from clip_pkg.study.class_texts import ClassTexts
from clip_pkg.study.folds_info import splits_to_json
from clip_pkg.study.preflight import PreparedConfig
from clip_pkg.study.scan import scan
from clip_pkg.study.splits import make_splits, undivided
from clip_pkg.study.tasks import FoldResult, PretrainTask
from clip_pkg.training.build import trainer_for
from support.tiny import TINY


def task_of(
    images: Path,
    root: Path,
    block: Mapping[str, Any],
    *,
    fold: int | None = None,
    **config: Any,
) -> PretrainTask:
    """The pre-training of a fold, or of a training that holds no image out, of a config."""
    settings = {**TINY, **config, "pretrain": {"epochs": 2, "batch_size": 8, **block}}
    checked = RunConfig.model_validate(settings)
    manifest = scan(images).manifest
    splits = undivided(manifest)
    if fold is not None:
        splits = make_splits(
            manifest,
            use_cv=True,
            n_splits=checked.n_splits,
            random_state=checked.random_state,
            val_fraction=checked.val_fraction,
        )
    texts = ClassTexts((), (), "", ())
    one = PreparedConfig(checked, manifest, splits, texts).pretraining(fold or 0)
    assert one is not None
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "manifest.json", manifest.to_json())
    if fold is not None:
        write_json(root / "folds_info.json", splits_to_json(splits, manifest))
    return PretrainTask(
        identity=one.identity,
        config=one.config,
        fold=one.fold,
        run_dir=root / "pretraining",
        manifest_file=root / "manifest.json",
        folds_info_file=root / "folds_info.json" if one.fold else None,
        cache_dir=root / "cache",
        n_images=len(manifest),
    )


def carry_out(task: PretrainTask, *, stop: Any = False) -> tuple[FoldResult, str]:
    """Pre-train on the CPU; returns the result and the log."""
    log = io.StringIO()
    with trainer_for(task, torch.device("cpu")) as trainer:
        result = trainer.run(log, "cpu", stop)
    return result, log.getvalue()
