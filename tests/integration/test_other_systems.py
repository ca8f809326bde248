"""Windows, macOS and Apple's GPUs, as far as Linux can tell."""

from __future__ import annotations

import platform
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clip_pkg.base.errors import UserError
from clip_pkg.inference.loading import choose_device
from clip_pkg.losses.functional import numerics
from clip_pkg.models.precision import choose_precision
from clip_pkg.scheduling.devices import Device, find_devices, parse_ids
from clip_pkg.training import build_pretraining, worker
from support.tiny import CHECKOUT

MPS = torch.device("mps")


def test_nothing_that_windows_lacks_is_used_unasked() -> None:
    """mypy knows which modules, signals and functions a system has."""
    check = [sys.executable, "-m", "mypy", "--platform", "win32", "clip_pkg", "train_clip.py"]
    done = subprocess.run(check, cwd=CHECKOUT, capture_output=True, text=True)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line for line in errors if "scheduling/slurm" not in line.replace("\\", "/")] == []
    assert "checked" in done.stdout, done.stderr


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")


@pytest.mark.usefixtures("apple")
def test_the_gpu_of_an_apple_chip_is_used_unless_the_cpu_is_named() -> None:
    (device,), notices = find_devices(None, gpus=(), environment={})
    assert (device.torch_name, device.log_tag, device.is_gpu, notices) == ("mps", "mps", False, [])
    (cpu,), _ = find_devices(parse_ids("cpu"), gpus=(), environment={})
    assert cpu.torch_name == "cpu"
    assert choose_device(None) == MPS
    assert choose_device("mps") == MPS


def test_elsewhere_there_is_none() -> None:
    with pytest.raises(UserError, match="mps is the GPU of an Apple chip"):
        find_devices(parse_ids("mps"), gpus=(), environment={})
    nvidia = Device("0", "GPU-x", "a GPU")
    assert find_devices(parse_ids("cpu"), gpus=[nvidia], environment={})[0][0].id == "cpu"
    with pytest.raises(UserError, match="mps"):
        choose_device("mps")


def test_it_computes_in_float32() -> None:
    chosen = choose_precision(
        MPS, torch.nn.Identity(), img_size=224, use_amp=True, amp_dtype="auto"
    )
    assert chosen.dtype is None
    assert numerics.widest_float(MPS) is torch.float32


class Float64(TorchDispatchMode):
    """Notes the operations that return float64, which these GPUs refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor) and one.dtype is torch.float64:
                frames = traceback.extract_stack()
                ours = [one for one in frames if "/clip_pkg/" in one.filename]
                self.found.add(f"{Path(ours[-1].filename).name}: {ours[-1].line} {func}")
        return result


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": {"type": "superclip"}, "aux_losses": [{"type": "center", "weight": 0.1}]},
        {"loss": {"type": "infonce", "num_negatives": 2}, "prompts_per_class": 3},
        {"pretrain": {"epochs": 1, "batch_size": 8}, "loss": {"type": "combined"}},
    ],
    ids=["superclip", "infonce", "pretrained"],
)
def test_training_needs_no_float64_there(
    settings: dict[str, Any],
    train: Callable[..., str],
    write_configs: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = numerics.widest_float
    for module in [worker, build_pretraining, *sys.modules.values()]:
        if vars(module).get("widest_float") is real:
            monkeypatch.setattr(module, "widest_float", lambda device: torch.float32)
    # Rates of the optimiser are float32 on every GPU; what comes from NumPy is cast, then moved;
    # the quality of features is measured on the CPU; probabilities leave the device.
    elsewhere = (
        "optimisation.py",
        "representation.py",
        "pretraining_measures.py",
        "lift_fresh",
        "logits).cpu()",
    )
    with Float64() as watched:
        train("--config-file", write_configs({**settings, "epochs": 1, "use_cv": False}))
    assert [one for one in sorted(watched.found) if not any(e in one for e in elsewhere)] == []
