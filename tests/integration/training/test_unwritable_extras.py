"""What nobody's numbers rest on may be impossible to write: training goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from support.outcomes import outcome


def test_curves_and_holder_that_cannot_be_written_stop_no_training(
    train: Callable[..., str], write_configs: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("--config-file", write_configs({"name": "a"}), "--multi-config")
    train(*words)
    wanted = outcome(tmp_path / "out")
    for fold in (1, 2):
        shutil.rmtree(tmp_path / f"out/a/fold_{fold}")
    for curves in ("fold_1", "mean"):
        folder = tmp_path / "out/a/tensorboard" / curves
        shutil.rmtree(folder)
        folder.write_text("not a folder", encoding="utf-8")
    (tmp_path / "out/.launcher.holder").mkdir()
    train(*words)
    assert outcome(tmp_path / "out") == wanted
