"""docs/extending.md adds a loss, a metric and an executor; this does the same in a copy."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiny import CHECKOUT, TINY, program_environment

GUIDE = (CHECKOUT / "docs/extending.md").read_text(encoding="utf-8")
CHECK_SUMMARY = """
import sys
from clip_pkg.results.summary_schema import CvSummary
CvSummary.model_validate_json(open(sys.argv[1], encoding="utf-8").read())
"""
STEPS = re.findall(r"(?ms)^```(diff|python) (\S+)\n(.*?)^```", GUIDE)


def apply_diff(path: Path, diff: str) -> None:
    """Replace the lines of a hunk (context and `-`) by the others (context and `+`)."""
    lines = [(line[:1] or " ", line[1:]) for line in diff.splitlines()]
    before = "".join(f"{text}\n" for sign, text in lines if sign != "+")
    after = "".join(f"{text}\n" for sign, text in lines if sign != "-")
    content = path.read_text(encoding="utf-8")
    assert content.count(before) == 1, (
        f"{path.name} has no such lines, or has them twice:\n{before}"
    )
    path.write_text(content.replace(before, after), encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which every step of the guide was taken."""
    root = tmp_path_factory.mktemp("extended")
    clean = shutil.ignore_patterns("__pycache__")
    for folder in ("clip_pkg", "docs", "tests"):
        shutil.copytree(CHECKOUT / folder, root / folder, ignore=clean)
    for file in ("pyproject.toml", "README.md", "train_clip.py"):
        shutil.copy(CHECKOUT / file, root / file)
    for kind, name, content in STEPS:
        path = root / name
        if kind == "diff":
            apply_diff(path, content)
        else:
            assert not path.exists(), f"{name} is there already"
            path.write_text(content, encoding="utf-8")
    return root


def run(root: Path, *words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=root,
        env={**program_environment(), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_guide_touches_what_it_says() -> None:
    assert [name for _, name, _ in STEPS] == [
        "clip_pkg/config/losses.py",
        "clip_pkg/config/losses.py",
        "clip_pkg/losses/poly.py",
        "tests/unit/losses/test_poly.py",
        "docs/losses.md",
        "clip_pkg/metrics/table.py",
        "clip_pkg/scheduling/nice.py",
        "clip_pkg/scheduling/executors.py",
        "clip_pkg/scheduling/executors.py",
    ]


def test_the_new_row_passes_the_tests_of_every_row_and_its_own(extended: Path) -> None:
    shown = run(
        extended,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("tests/unit/losses/test_poly.py", "tests/unit/losses/test_docs.py"),
        *("tests/unit/losses/test_rows.py", "-k", "poly or named or section"),
    )
    passed = int(re.findall(r"(\d+) passed", shown)[-1])
    assert passed > 30
    assert "poly" in run(
        extended, "-c", "from clip_pkg.config.losses import LOSSES; print(*LOSSES)"
    )


def test_what_the_guide_writes_is_clean(extended: Path) -> None:
    files = sorted({extended / name for _, name, _ in STEPS if name.endswith(".py")})
    run(extended, "-m", "ruff", "check", *files)
    run(extended, "-m", "ruff", "format", "--check", *files)


def test_loss_and_metric_train_and_are_compared_and_reported(extended: Path, images: Path) -> None:
    settings = {**TINY, "epochs": 1, "early_stopping_monitor": "val_youden"}
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    run(
        extended,
        *("train_clip.py", "--data-dir", images, "--output-dir", extended / "out"),
        *("--main-loss-type", "poly", "--no-cv", *flags),
    )
    (history,) = (extended / "out").glob("*/fold_1/history.json")
    columns = json.loads(history.read_text(encoding="utf-8"))
    assert {"train_first_order_loss", "val_youden"} <= set(columns)
    folder = history.parents[1]
    summary = json.loads((folder / "cv_summary.json").read_text(encoding="utf-8"))
    assert summary["out_of_fold"]["youden"] == pytest.approx(columns["val_youden"][-1])
    assert summary["confidence_intervals"]["out_of_fold"]["youden"] is not None
    run(extended, "-c", CHECK_SUMMARY, folder / "cv_summary.json")
    assert "Macro Youden index" in run(
        extended, "train_clip.py", "compare", folder, "--metric", "youden"
    )
    run(extended, "train_clip.py", "report", folder)
    pages = [path.read_text(encoding="utf-8") for path in (extended / "out").rglob("*.html")]
    assert any("PolyLoss (Leng et al. 2022; ε = 1)" in page for page in pages)
