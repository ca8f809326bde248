"""docs/extending.md adds one of each thing; this does the same in a copy of the checkout."""

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
    for folder in ("clip_pkg", "docs", "environment", "tests"):
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
        "clip_pkg/config/encoders.py",
        "clip_pkg/models/torchvision_images.py",
        "clip_pkg/config/keys.py",
        "clip_pkg/models/image_text.py",
        "clip_pkg/cli/commands/mistakes.py",
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


@pytest.fixture(scope="module")
def trained(extended: Path, images: Path) -> Path:
    """Result folder of a config that uses every addition."""
    settings = {
        **TINY,
        "epochs": 1,
        "early_stopping_monitor": "val_youden",
        "image_encoder_name": "torchvision:resnet18:scratch",
        "n_splits": 2,
    }
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    run(
        extended,
        *("train_clip.py", "--data-dir", images, "--output-dir", extended / "out"),
        *("--main-loss-type", "poly", "--fix-temperature", "--executor", "nice", "--use-cv"),
        *flags,
    )
    (summary,) = (extended / "out").glob("*/cv_summary.json")
    return summary.parent


def test_all_of_it_trains(extended: Path, trained: Path) -> None:
    summary = json.loads((trained / "cv_summary.json").read_text(encoding="utf-8"))
    assert summary["complete"]
    assert summary["average_results"]["n"] == 2
    for fold in (1, 2):
        path = trained / f"fold_{fold}/history.json"
        columns = json.loads(path.read_text(encoding="utf-8"))
        assert {"train_first_order_loss", "val_youden"} <= set(columns)
        assert columns["temperature"] == pytest.approx([0.07])  # it would have moved
    assert -1 <= summary["out_of_fold"]["youden"] <= 1
    assert summary["confidence_intervals"]["out_of_fold"]["youden"] is not None
    run(extended, "-c", CHECK_SUMMARY, trained / "cv_summary.json")


def test_commands_and_pages_know_it(extended: Path, trained: Path) -> None:
    program = "train_clip.py"
    shown = " ".join(run(extended, program, "--help").split())
    assert "nice: one process per task" in shown
    assert "mistakes list the validation images" in shown
    assert "`torchvision:<ResNet>`" in run(extended, program, "schema")
    assert "Macro Youden index" in run(extended, program, "compare", trained, "--metric", "youden")
    run(extended, program, "report", trained)
    pages = [path.read_text(encoding="utf-8") for path in (extended / "out").rglob("*.html")]
    assert any("PolyLoss (Leng et al. 2022; ε = 1)" in page for page in pages)
    summary = json.loads((trained / "cv_summary.json").read_text(encoding="utf-8"))
    wrong = run(extended, program, "mistakes", trained).splitlines()
    assert len(wrong) == round(30 * (1 - summary["out_of_fold"]["acc"] / 100))


def test_its_model_is_exported_with_a_recipe(extended: Path, trained: Path, images: Path) -> None:
    folder = extended / "exported"
    words = ("--output", folder, "--format", "safetensors")
    run(extended, "train_clip.py", "export", trained / "fold_1", *words)
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    shutil.copy(next(path for path in images.rglob("*.png")), folder / "image.png")
    (folder / "example.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in {"red", "grün", "blue"}
