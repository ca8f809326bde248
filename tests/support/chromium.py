"""A real browser for pages: Debian's Chromium, installed where that is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PACKAGE = "chromium"
PROGRAM = Path("/usr/bin/chromium")


def why_not() -> str:
    """Install what is missing, if that is allowed; returns why there can be no browser, or ''."""
    if PROGRAM.exists():
        return ""
    apt = shutil.which("apt-get")
    if os.geteuid() != 0 or apt is None:
        return "Chromium is not installed, and only root can install Debian's packages"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", PACKAGE]):
        done = subprocess.run([apt, *words], env=environment, capture_output=True, text=True)
    if done.returncode != 0 or not PROGRAM.exists():
        return f"Chromium could not be installed: {done.stderr.strip()[-300:]}"
    return ""
