"""How this program was started, for commands that it prints to be pasted."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """`python train_clip.py` from a checkout, with its path as it was typed; else `clip-pkg`.

    `python3` where there is no `python`, as on Debian and macOS.
    """
    started = Path(sys.argv[0])
    if started.name == "clip-pkg":
        return "clip-pkg" if shutil.which("clip-pkg") else shlex.quote(sys.argv[0])
    script = sys.argv[0] if started.suffix == ".py" and started.stem != "__main__" else ""
    python = "python" if shutil.which("python") or not shutil.which("python3") else "python3"
    return f"{python} {shlex.quote(script or 'train_clip.py')}"


def tool(name: str) -> str:
    """The path of another program of this environment; relative if this one was started so."""
    path = Path(sys.executable).with_name(name)
    if Path(sys.argv[0]).is_absolute():
        return shlex.quote(str(path))
    try:
        return shlex.quote(str(path.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))
