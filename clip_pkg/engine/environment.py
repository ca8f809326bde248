"""On what a number was computed: versions, device, precision."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from clip_pkg import __version__
from clip_pkg.precision import Precision

PACKAGES = ("torch", "timm", "open_clip_torch", "numpy", "scikit-learn", "pillow")


def describe_environment(
    device: torch.device, precision: Precision, ranks: int = 1
) -> dict[str, str]:
    """Facts that belong beside every result; `ranks` such devices were at work."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "clip_pkg": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "device": f"{f'{ranks} × ' if ranks > 1 else ''}{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "precision": str(precision),
    }
