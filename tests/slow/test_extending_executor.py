"""docs/extending.md adds an executor; this does the same in a copy of the package."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from slow.test_extending import STEPS, apply_diff, run

from support.tiny import CHECKOUT, TINY

pytestmark = pytest.mark.slow


def test_the_new_executor_trains_from_the_command_line(images: Path, tmp_path: Path) -> None:
    copytree(CHECKOUT / "clip_pkg", tmp_path / "clip_pkg", ignore=ignore_patterns("__pycache__"))
    for kind, name, content in STEPS:
        path = tmp_path / name
        if path.parent.name == "scheduling" and kind == "diff":
            apply_diff(path, content)
        elif path.parent.name == "scheduling":
            path.write_text(content, encoding="utf-8")
    run(
        tmp_path,
        "-m",
        "ruff",
        "check",
        "clip_pkg/scheduling",
        "--config",
        CHECKOUT / "pyproject.toml",
    )
    program = ("-m", "clip_pkg")
    assert "nice: one process per task" in " ".join(run(tmp_path, *program, "--help").split())
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in {**TINY, "epochs": 1}.items()]
    where = ("--data-dir", images, "--output-dir", tmp_path / "out")
    run(tmp_path, *program, *where, "--executor", "nice", "--use-cv", "--n-splits", "2", *flags)
    assert len(list((tmp_path / "out").glob("*/fold_*/result.json"))) == 2
