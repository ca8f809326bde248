"""Continues a program of this checkout in `.venv`, whichever Python (3.8 or newer) started it."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
VENV = CHECKOUT / ".venv"


def enter() -> None:
    """Go over to the checkout's `.venv` with the same arguments; return if this is it.

    Without a `.venv`, any Python that has the packages serves. Otherwise exits with code 2 and the
    command that helps.
    """
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # Not sys.prefix, which `python -S` leaves at the base installation.
    if Path(sys.executable).parent.resolve() == python.parent.resolve():
        return
    if not VENV.exists():
        if sys.version_info >= (3, 11) and importlib.util.find_spec("pydantic"):
            return
        _exit("there is no .venv yet; this makes it:")
    words = sys.orig_argv[1:] if hasattr(sys, "orig_argv") else sys.argv
    # Packages from elsewhere must not stand in for the pinned ones.
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
    try:
        if os.name == "nt":  # exec would return to the shell at once
            sys.exit(subprocess.run([python, *words], env=kept, check=False).returncode)
        os.execve(python, [str(python), *words], kept)  # noqa: S606
    except OSError as error:
        _exit(f"the Python of .venv does not start ({error.strerror}); this repairs it:")


def _exit(problem: str) -> None:
    script = shlex.quote(str(CHECKOUT / "environment" / "prepare.sh"))
    print(f"error: {problem}\n  bash {script} runtime", file=sys.stderr)
    sys.exit(2)
