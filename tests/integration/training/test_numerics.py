"""Small training curves are pinned: a changed number asks for a new NUMERICS_VERSION.

When a test here fails because an algorithm was changed on purpose, raise `NUMERICS_VERSION` in
`clip_pkg/study/identity.py` and pin the new curves:

    PRINT_CURVES=1 python -m pytest -n 0 -s tests/integration/training/test_numerics.py

The tolerance covers the rounding of different CPUs. The last tests show that it does not cover a
change of the algorithm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_pkg.study.identity import NUMERICS_VERSION

Train = Callable[..., str]
Curves = dict[str, list[float]]

TOLERANCE = {"rel": 1e-3, "abs": 1e-4}
BASE = {"use_cv": False, "epochs": 3, "warmup_epochs": 0, "learning_rate": 2e-3}
CONFIGS: dict[str, dict[str, Any]] = {
    "cross-entropy": {"loss": {"type": "ce"}, "use_weighted_sampling": True},
    "contrastive": {
        "loss": {"type": "superclip", "class_loss_weight": 1.0, "contrastive_loss_weight": 0.5},
        "aux_losses": [{"type": "center", "weight": 0.1}],
        "mixup_alpha": 0.2,
        "augmentation": "standard",
    },
    "pre-trained": {
        "loss": {"type": "ce"},
        "pretrain": {"epochs": 2, "batch_size": 8, "loss": {"type": "nt_xent"}, "images": "all"},
    },
}
COLUMNS = ("train_loss", "val_loss")
PINNED: dict[int, dict[str, Curves]] = {
    1: {
        "cross-entropy": {
            "train_loss": [2.42318, 0.633263, 0.00401513],
            "val_loss": [0.334477, 1.03992, 1.38977],
        },
        "contrastive": {
            "train_loss": [4.96863, 1.89737, 0.845743],
            "val_loss": [2.11043, 2.53997, 2.40691],
        },
        "pre-trained": {
            "train_loss": [2.00234, 0.173939, 0.00114177],
            "val_loss": [0.888857, 0.463257, 0.229782],
            "pretraining train_loss": [2.50968, 2.37361],
        },
    }
}


@pytest.fixture
def curves(
    train: Train, write_configs: Callable[..., Path], tmp_path: Path
) -> Callable[..., Curves]:
    """Train one of the configs, with changes, and return its curves."""

    def run(name: str, **changes: Any) -> Curves:
        config = {**BASE, **CONFIGS[name], "name": "a", **changes}
        train("--config-file", write_configs(config))
        folders = [tmp_path / "out/a/fold_1", *(tmp_path / "out/pretraining").glob("*")]
        found: Curves = {}
        for folder, prefix in zip(folders, ("", "pretraining "), strict=False):
            history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
            found |= {f"{prefix}{key}": history[key] for key in COLUMNS if key in history}
        return found

    return run


@pytest.mark.parametrize("name", CONFIGS)
def test_curves_are_those_of_this_version(curves: Callable[..., Curves], name: str) -> None:
    found = curves(name)
    if os.environ.get("PRINT_CURVES"):
        print(json.dumps({name: found}))
        return
    for column, values in PINNED[NUMERICS_VERSION][name].items():
        assert found[column] == pytest.approx(values, **TOLERANCE), column


def differs(found: Curves, name: str) -> bool:
    pinned = PINNED[NUMERICS_VERSION][name]
    return any(found[key] != pytest.approx(pinned[key], **TOLERANCE) for key in pinned)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": BASE["learning_rate"] * 1.02},
        {"label_smoothing": 0.005},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_setting_is_noticed(
    curves: Callable[..., Curves], change: dict[str, Any]
) -> None:
    assert differs(curves("cross-entropy", **change), "cross-entropy")


def test_a_changed_optimiser_is_noticed(
    curves: Callable[..., Curves], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.optim.AdamW.__init__

    def with_another_beta(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "betas": (0.9, 0.98)})

    monkeypatch.setattr(torch.optim.AdamW, "__init__", with_another_beta)
    assert differs(curves("cross-entropy"), "cross-entropy")
