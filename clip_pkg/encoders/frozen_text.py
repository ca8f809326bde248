"""Class texts before an encoder that nothing trains: its features, and all that they follow from.

Legend: M prompts of all classes one after another, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.encoders.text import build_text_encoder, precompute
from clip_pkg.encoders.weights import WeightsRequest, files_in_use

_PACKAGES = ("torch", "open_clip_torch", "transformers", "tokenizers")
_CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class FrozenText:
    """A text tower, and the M prompts that it reads once.

    seed: draws the weights of `:scratch`, apart from torch's global generator. What else is drawn
    with that one does not depend on whether anybody had to build the tower.
    """

    spec: EncoderSpec
    prompts: tuple[str, ...]
    weights_dir: Path | None
    seed: int

    def features(self) -> Tensor:
        """Build the tower, run it over all prompts and forget it: float32 [M, F], on the CPU.

        Raises WeightsError, CheckpointError and UserError as `build_text_encoder` does.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            tower = build_text_encoder(
                self.spec, self.prompts, embed_dim=1, weights_dir=self.weights_dir
            )
        return precompute(tower, len(self.prompts)).features

    def made_from(self) -> dict[str, Any]:
        """What `features` gives is a function of this, a JSON value, and of the package's sources.

        The tokens follow from the prompts, the tokenizer's files and the libraries. Matrix products
        are rounded by processor and number of threads. Raises WeightsError for missing files.
        """
        request = WeightsRequest(self.spec, "text", self.weights_dir)
        return {
            "encoder": {**asdict(self.spec), "written": None},
            "seed": self.seed if self.spec.weights == "scratch" else None,
            "files": files_in_use(request),
            "prompts": self.prompts,
            "precision": f"float32, {torch.get_float32_matmul_precision()}",
            "threads": torch.get_num_threads(),
            "processor": [torch.backends.cpu.get_cpu_capability(), _processor()],
            "packages": {name: _version(name) for name in _PACKAGES},
        }


# Gives `FrozenText.features`, computed now or at another time.
TextFeatures: TypeAlias = Callable[[FrozenText], Tensor]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # an optional one
        return None


def _processor() -> str:
    """Name of the CPU, where the system tells it."""
    try:
        lines = _CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
