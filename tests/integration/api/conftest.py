"""A run of two configs that the tests of this folder look at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clip_pkg.cli import main
from support.tiny import TINY


@pytest.fixture(scope="session")
def output(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("api")
    configs = [
        {**TINY, "name": "plain"},
        {**TINY, "name": "super", "loss": {"type": "superclip"}, "epochs": 1},
    ]
    (root / "configs.json").write_text(json.dumps(configs), encoding="utf-8")
    words = ["--data-dir", images, "--output-dir", root / "out", "--log-dir", root / "logs"]
    words += ["--config-file", root / "configs.json", "--multi-config", "--executor", "inline"]
    assert main([str(word) for word in words]) == 0
    return root / "out"
