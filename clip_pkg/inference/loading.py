"""Choosing a device and loading models onto it. torch is imported by the functions that need it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clip_pkg.base.errors import UserError
from clip_pkg.scheduling.devices import has_apple_gpu

if TYPE_CHECKING:
    import torch

    from clip_pkg.inference.ensemble import Ensemble


def choose_device(wanted: str | None) -> torch.device:
    """Import torch and return the device `wanted`, or the first GPU, or the CPU.

    Raises UserError for a GPU that this machine does not have.
    """
    # Set before torch is imported, as in training: cuda:0 is nvidia-smi's first GPU, and waiting
    # threads leave the cores to those that decode.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch  # noqa: PLC0415  a wrong path is reported without it

    torch.set_num_threads(os.cpu_count() or 1)  # as a fold that is trained on the CPU
    if wanted == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None:
        return torch.device("cuda:0" if count else "mps" if has_apple_gpu() else "cpu")
    if wanted == "mps" and has_apple_gpu():
        return torch.device("mps")
    device = torch.device(wanted)
    if (device.index or 0) >= count:
        present = f"cuda:0 to cuda:{count - 1}" if count else "no usable NVIDIA GPU"
        raise UserError(f"--device: {wanted} is not on this machine; it has {present}, and cpu")
    return device


def load_ensemble(checkpoints: Sequence[Path], device: str | None) -> Ensemble:
    """Load models onto `device`, or the first GPU, or the CPU."""
    chosen = choose_device(device)
    from clip_pkg.inference.ensemble import Ensemble  # noqa: PLC0415

    return Ensemble.load(checkpoints, chosen)
