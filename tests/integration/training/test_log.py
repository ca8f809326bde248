"""The log of a config: settings once, as they are used, and what each epoch cost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path


def test_settings_are_written_once_and_each_fold_and_epoch_has_its_own_lines(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    config = {"name": "a", "use_weighted_sampling": True, "warmup_epochs": 5.0, "num_workers": 0}
    train("--config-file", write_configs(config), "--log-dir", "logs")
    (log,) = (tmp_path / "logs").glob("a_gpu-none_*.log")
    text = log.read_text(encoding="utf-8")
    lines = text.splitlines()

    assert lines.count("TRAINING CONFIGURATION") == 2
    assert lines.count("embed_dim: 16") == 1
    second = lines[lines.index("Fold: 2 of 2") :]
    assert "Images: 15 train, 15 validation" in second
    for used in (
        "horizontal_flip: true (config: none)",
        "micro_batch_size: 8 (config: none)",
        "warmup_epochs: 0.2 (config: 5.0)",
        "use_weighted_sampling: true",
    ):
        assert lines.count(used) == 1, used
    assert re.search(r"^amp_dtype: (float32|bfloat16) \(config: auto\)$", text, re.MULTILINE)

    for number in (1, 2):
        history = json.loads((tmp_path / f"out/a/fold_{number}/history.json").read_text())
        for rate, seconds in zip(history["learning_rate"], history["epoch_seconds"], strict=True):
            assert f"\nLearning Rate: {rate:.3g}, Epoch Time: {seconds:.1f} s\n" in text
