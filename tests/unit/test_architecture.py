"""The house: imports go strictly downward, and what must start fast knows no torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "clip_pkg"
PAGE = (CHECKOUT / "docs/architecture.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"^(\w+)/ {2,}\S", PAGE, flags=re.MULTILINE)[::-1]  # the lowest first
TORCH_FREE = [
    "clip_pkg.config.load",
    "clip_pkg.config.flags",
    "clip_pkg.study.splits",
    "clip_pkg.study.tasks",
    "clip_pkg.scheduling.loop",
    "clip_pkg.scheduling.process",
    "clip_pkg.scheduling.ray",
    "clip_pkg.scheduling.slurm",
    "clip_pkg.scheduling.slurm_job",
    "clip_pkg.results.summary",
    "clip_pkg.results.curves",
    "clip_pkg.results.bootstrap",
    "clip_pkg.inference.calibration",
    "clip_pkg.inference.explanation_folder",
    "clip_pkg.inference.feature_file",
    "clip_pkg.inference.held_out",
    "clip_pkg.results.comparison",
    "clip_pkg.results.comparison_files",
    "clip_pkg.inference.images",
    "clip_pkg.inference.checkpoint_choice",
    "clip_pkg.inference.answer_file",
    "clip_pkg.inference.loading",
    "clip_pkg.launch.training",
    "clip_pkg.launch.refit",
    "clip_pkg.launch.status",
    "clip_pkg.report.build",
    "clip_pkg.api.run",
    "clip_pkg.api.estimator",
    "clip_pkg",
]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("clip_pkg.")}
    return rooms


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def test_imports_go_strictly_downward() -> None:
    for path in SOURCES:
        mine = room(path)
        assert mine in ROOMS, f"{mine} is not a room of docs/architecture.md"
        for other in imported_rooms(path) - {mine}:
            assert ROOMS.index(other) < ROOMS.index(mine), f"{path}: {mine} must not import {other}"


HEAVY_IMPORTS = """
import importlib, sys
heavy, *modules = sys.argv[1:]
for module in modules:
    importlib.import_module(module)
    for name in set(heavy.split()) & set(sys.modules):
        sys.exit(f"{module} imports {name}")
"""


def heavy_import(heavy: str, *modules: str) -> str:
    """The first of `modules` that imports one of `heavy`, in one process for them all."""
    command = [sys.executable, "-c", HEAVY_IMPORTS, heavy, *modules]
    return subprocess.run(command, capture_output=True, text=True).stderr.strip()


def test_modules_start_without_torch() -> None:
    assert heavy_import("torch timm open_clip", *TORCH_FREE) == ""
    assert heavy_import("pydantic", *TORCH_FREE) == f"{TORCH_FREE[0]} imports pydantic"


def test_commands_start_without_what_only_some_of_them_need() -> None:
    assert heavy_import("sklearn scipy.stats matplotlib pandas", "clip_pkg.launch.training") == ""


def test_training_starts_without_what_only_some_encoders_need() -> None:
    heavy = "open_clip transformers onnx matplotlib pandas captum"
    assert heavy_import(heavy, "clip_pkg.training.build", "clip_pkg.training.rank_processes") == ""
