"""The environment of a result: versions, device, precision, revision of the sources."""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from clip_pkg import __version__
from clip_pkg.models.precision import Precision

PACKAGES = ("torch", "timm", "open_clip_torch", "numpy", "scikit-learn", "pillow")
CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS_FOR_GIT = 10  # on a slow file server; then the revision is left out


def describe_environment(
    device: torch.device, precision: Precision, ranks: int = 1
) -> dict[str, str]:
    """Facts to record with every result. ranks: number of such devices."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    facts = {
        "clip_pkg": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: version(package) for package in PACKAGES},
        "device": f"{f'{ranks} × ' if ranks > 1 else ''}{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "precision": str(precision),
    }
    if device.type == "cuda":
        facts["cuda"] = str(torch.version.cuda)
    revision = git_revision(CHECKOUT)
    return facts if revision is None else {**facts, "git_revision": revision}


@cache
def git_revision(checkout: Path) -> str | None:
    """Commit of a checkout, with `-dirty` after it where files differ from the commit.

    None where the package does not lie in a checkout of its own, or git cannot tell.
    """
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    words = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            [git, "-C", str(checkout), *words],
            capture_output=True,
            text=True,
            timeout=SECONDS_FOR_GIT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
