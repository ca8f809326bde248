"""How this program was started, for commands that it prints to be pasted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def program() -> str:
    """`python train_clip.py` from a checkout, with its path as it was typed; else `clip-pkg`."""
    started = Path(sys.argv[0])
    if started.name == "clip-pkg":
        return "clip-pkg"
    script = sys.argv[0] if started.suffix == ".py" and started.stem != "__main__" else ""
    return f"python {shlex.quote(script or 'train_clip.py')}"


def tool(name: str) -> str:
    """The path of another program of this environment, from the current folder where possible."""
    path = Path(sys.executable).with_name(name)
    try:
        return shlex.quote(str(path.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))
