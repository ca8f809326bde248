"""A program of the checkout runs in `.venv`, whichever Python starts it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from support.tiny_checkout import CHECKOUT, Checkout

PROGRAM = """
import sys
from environment.enter import enter
enter()
import os
print(sys.executable, sys.argv[1:], sys.flags.optimize, os.environ.get("PYTHONPATH"))
"""
# Outside any environment, and without the packages of this one.
BARE = [str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"), "-S"]


def start(checkout: Checkout, *python: str) -> subprocess.CompletedProcess[str]:
    program = checkout.root / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    words = [*python, str(program), "--name", "two words"]
    # From another folder, as a pasted command may be.
    return checkout.run(words, checkout.root.parent, PYTHONPATH="/elsewhere")


def test_it_goes_over_with_its_arguments(prepared: Checkout) -> None:
    done = start(prepared, *BARE, "-O")
    assert done.stdout == f"{prepared.venv}/bin/python ['--name', 'two words'] 1 None\n", (
        done.stderr
    )


def test_it_stays_where_it_is_right(prepared: Checkout) -> None:
    done = start(prepared, str(prepared.venv / "bin" / "python"))
    assert done.stdout.endswith("['--name', 'two words'] 0 /elsewhere\n"), done.stderr


def test_without_an_environment_there_is_one_sentence(checkout: Checkout) -> None:
    done = start(checkout, *BARE)
    assert (done.returncode, done.stdout) == (2, "")
    said, command = done.stderr.splitlines()
    assert said == "error: there is no .venv yet; this makes it:"
    assert checkout.run(["bash", "-c", command], checkout.root.parent).returncode == 0
    assert start(checkout, *BARE).returncode == 0


def test_a_python_that_has_the_packages_serves(checkout: Checkout) -> None:
    done = start(checkout, sys.executable)
    assert done.stdout.startswith(sys.executable), done.stderr


def test_a_python_that_does_not_start_is_repaired(prepared: Checkout) -> None:
    python = prepared.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    done = start(prepared, *BARE)
    assert done.returncode == 2
    assert "does not start" in done.stderr
    command = done.stderr.splitlines()[-1]
    assert prepared.run(["bash", "-c", command], prepared.root.parent).returncode == 0
    assert start(prepared, *BARE).returncode == 0


def test_what_an_old_python_reads_has_its_syntax() -> None:
    for name in ("environment/enter.py", "train_clip.py", "train.py", "main_clip.py"):
        ast.parse((CHECKOUT / name).read_text(encoding="utf-8"), feature_version=(3, 8))
    assert os.access(BARE[0], os.X_OK)
