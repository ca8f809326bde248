"""What a run left behind, to be compared with what another one left."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import torch

from clip_pkg.results.summary import without_times
from clip_pkg.training.worker import SECONDS_TO_CHECKPOINT

EVERYTHING = os.environ.get("CLIP_PKG_FAULTS") == "all"  # instead of a sample of the faults
# A worker whose launcher was killed, on a machine that is slow to let its threads run.
SECONDS_TO_END = SECONDS_TO_CHECKPOINT + 22


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that counts: summaries without times, histories, predictions, weights."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "cv_summary.json":
            found[name] = without_times(json.loads(path.read_text(encoding="utf-8")))
        elif path.name == "history.json":
            columns = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {k: v for k, v in columns.items() if "second" not in k}
        elif path.name.endswith(".csv") and "predictions" in path.name:
            found[name] = path.read_bytes()
        elif path.suffix == ".pth":
            content = torch.load(path, weights_only=True)
            model = content["image_encoder" if path.name == "encoder.pth" else "model"]
            found[name] = {key: digest(value) for key, value in model.items()}
    return found


def digest(tensor: torch.Tensor) -> str:
    """Name the bits of a tensor, of which lists would take minutes to compare."""
    return hashlib.sha256(tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def check_readable(folder: Path) -> None:
    """No file is ever half written, whenever the power goes."""
    for path in folder.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".pth":
            torch.load(path, weights_only=True)


def alive(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Who still lives after so long; one that nobody has buried yet is dead all the same."""
    _, left = psutil.wait_procs(processes, timeout=seconds)
    return [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
