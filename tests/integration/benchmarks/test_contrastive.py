"""The table of pre-training losses as a section, from a run that is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.contrastive import main, minutes
from clip_pkg.base.paths import RunPaths
from support.tiny import TINY


def test_a_run_becomes_a_section(
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    probe = {
        "freeze_image_encoder": True,
        "augmentation": "none",
        "text_encoder_name": "none",
        "loss": {"type": "ce", "classifier": "linear"},
    }
    block = {"loss": {"type": "dhel"}, "images": "all", "epochs": 1, "batch_size": 8}
    file = write_configs(
        {**TINY, **probe, "name": "dhel", "pretrain": block}, {**TINY, **probe, "name": "plain"}
    )
    train("--config-file", file, "--multi-config")
    main(["--results", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "`test_resnet:scratch`" in said
    assert "`images: all` of 30 images" in said
    assert "scores on held-out images" in said
    rows = [line for line in said.splitlines() if line.startswith("| ")]
    names = {row.split("|")[1].strip() for row in rows}
    assert {"Pre-training", "dhel", "no pre-training"} <= names


def test_minutes_are_those_of_all_launchers(tmp_path: Path) -> None:
    times = [("launched", 0.0), ("finished", 60.0), ("launched", 1000.0), ("done", 1120.0)]
    run = RunPaths(tmp_path)
    lines = [json.dumps({"event": name, "time": time}) for name, time in times]
    run.ledger.write_text("\n".join(lines), encoding="utf-8")
    assert minutes(run) == pytest.approx(3.0)
