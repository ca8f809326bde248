"""`benchmarks/run.sh`: sets up what a benchmark needs and passes its options on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.tiny_checkout import CHECKOUT, Checkout, make_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = make_checkout(tmp_path)
    folder = made.root / "benchmarks"
    folder.mkdir()
    shutil.copy(CHECKOUT / "benchmarks" / "run.sh", folder)
    (folder / "__init__.py").touch()
    (folder / "mine.py").write_text("import sys, peer\nprint(sys.argv[1:])\nsys.exit(3)\n")
    lock = made.root / "environment" / "bench.lock"
    lock.write_text("peer==1.0\n", encoding="utf-8")
    return made


def test_a_fresh_checkout_runs_a_benchmark(checkout: Checkout, tmp_path: Path) -> None:
    script = str(checkout.root / "benchmarks" / "run.sh")
    done = checkout.run(["bash", script, "mine", "--sizes", "1 2"], cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[-1] == "['--sizes', '1 2']"


@pytest.mark.parametrize("arguments", [[], ["absent"]])
def test_it_says_what_to_name(checkout: Checkout, arguments: list[str]) -> None:
    done = checkout.run(["bash", "benchmarks/run.sh", *arguments])
    assert done.returncode == 2
    assert "name a script of this folder" in done.stderr
    assert not checkout.venv.exists()
