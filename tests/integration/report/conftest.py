"""A run of two small configs over classes with unpleasant names, and the report about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from clip_pkg.cli import main
from support.tiny import TINY, make_folder

# HTML, LaTeX, umlauts, emoji, matplotlib's markup and its mark of names that no legend shows
CLASSES = {'<b>gut & "heil"': 14, "_50%_of$it$": 10, "Größe 😀 {x}": 8}


@dataclass(frozen=True)
class TrainedRun:
    images: Path
    output: Path

    @property
    def page(self) -> Path:
        return self.output / "report" / "index.html"


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """Two configs × two folds with a report that has everything."""
    root = tmp_path_factory.mktemp("reported")
    images = make_folder(root / "images", CLASSES)
    configs = [
        {**TINY, "name": "weighted_ce", "loss": {"type": "ce"}, "use_weighted_sampling": True},
        {**TINY, "name": "plain & <clip>", "epochs": 1},
    ]
    (root / "configs.json").write_text(json.dumps(configs), encoding="utf-8")
    run = TrainedRun(images, root / "out")
    where = ["--data-dir", images, "--output-dir", run.output, "--log-dir", root / "logs"]
    how = ["--config-file", root / "configs.json", "--multi-config", "--executor", "inline"]
    assert main([str(word) for word in (*where, *how)]) == 0
    assert main(["report", str(run.output)]) == 0
    return run
