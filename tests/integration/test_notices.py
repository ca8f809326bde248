"""What a study says before training and in its summaries about patients and imbalance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.tiny import paint

PATTERN = r"^(P\d+)_"


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients with three images each, of two classes."""
    root = tmp_path_factory.mktemp("patients")
    for patient in range(8):
        for number in range(3):
            label = patient % 2
            paint(root / "ab"[label] / f"P{patient}_{number}.png", label, 3 * patient + number)
    return root


def test_unknown_patients_and_a_double_correction_are_said_before_and_after(
    train: Callable[..., str], write_configs: Callable[..., Path], patients: Path, tmp_path: Path
) -> None:
    config: dict[str, Any] = {"epochs": 1, "use_cv": False, "loss": {"type": "superclip"}}
    twice = {**config, "name": "twice", "use_weighted_sampling": True}
    grouped = {**config, "name": "grouped", "group_pattern": PATTERN}
    file = write_configs(twice, grouped)
    shown = " ".join(train("--config-file", file, "--multi-config", data=patients).split())
    before, _, _ = shown.partition("fold 1 of 1 done")
    assert before.count("twice: Nothing says which images show the same patient.") == 1
    suggested = f'"group_pattern": {json.dumps(PATTERN)} would make 8 groups of 3 images'
    assert before.count(suggested) == 1
    assert before.count("correct it a second time") == 1
    summaries = [
        json.loads((tmp_path / "out" / name / "cv_summary.json").read_text(encoding="utf-8"))
        for name in ("twice", "grouped")
    ]
    assert suggested in summaries[0]["notices"][-1]
    assert summaries[1]["notices"] == []
