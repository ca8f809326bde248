"""Text encoders over a fixed, flat list of prompts: rows of prompts → features.

Legend: C classes, M prompts of all classes, concatenated, m selected rows, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.config.schema import RunConfig
from clip_pkg.models.families import TextTower, family_of
from clip_pkg.models.weights import WeightsRequest, files_in_use

_CHUNK = 256


class LearnedPrompts(nn.Module):
    """One learned vector per prompt instead of a text tower.

    Args:
        rows: M vectors.
        num_features: F.
        start: [M, F] initial values; None for random ones.
    """

    def __init__(self, rows: int, num_features: int, start: Tensor | None = None) -> None:
        super().__init__()
        self.num_features = num_features
        # Random vectors are in the joint space; features of a tower need its projection.
        self.in_joint_space = start is None
        self.vectors = nn.Parameter(torch.empty(rows, num_features))
        if start is None:
            nn.init.normal_(self.vectors, std=0.02)
        else:
            with torch.no_grad():
                self.vectors.copy_(start)

    def forward(self, prompt_rows: Tensor) -> Tensor:
        return self.vectors[prompt_rows]


class FrozenTextFeatures(nn.Module):
    """Precomputed features [M, F], without the tower."""

    features: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.num_features = features.shape[1]
        self.register_buffer("features", features.detach().float())

    def forward(self, prompt_rows: Tensor) -> Tensor:
        return self.features[prompt_rows]


# Each maps rows [m] (int64) of the prompts to features [m, num_features].
TextEncoder: TypeAlias = TextTower | LearnedPrompts | FrozenTextFeatures


@torch.no_grad()
def precompute(encoder: TextEncoder, rows: int) -> FrozenTextFeatures:
    """Encode all `rows` prompts once, in evaluation mode and float32."""
    was_training = encoder.training
    encoder.eval()
    starts = range(0, rows, _CHUNK)
    chunks = [encoder(torch.arange(at, min(at + _CHUNK, rows))) for at in starts]
    encoder.train(was_training)
    return FrozenTextFeatures(torch.cat(chunks))


_PACKAGES = ("torch", "open_clip_torch", "transformers", "tokenizers")
_CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class FrozenText:
    """A frozen text tower and its M prompts.

    seed: of `:scratch` weights. They do not come from torch's global generator, so other random
    numbers are the same whether the tower is built or its features are cached.
    """

    spec: EncoderSpec
    prompts: tuple[str, ...]
    weights_dir: Path | None
    seed: int

    def features(self) -> Tensor:
        """Build the tower and encode all prompts: float32 [M, F], on the CPU.

        Raises WeightsError, CheckpointError and UserError as `FamilyModule.build_text` does.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            tower = family_of(self.spec).build_text(self.spec, self.prompts, self.weights_dir)
        return precompute(tower, len(self.prompts)).features

    def made_from(self) -> dict[str, Any]:
        """Everything that `features` depends on besides this package, as a JSON value.

        Processor and threads are included because they change the rounding of matrix products.
        Raises WeightsError for missing files.
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


# `FrozenText.features`, or a cache of it.
TextFeatures: TypeAlias = Callable[[FrozenText], Tensor]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # optional
        return None


def _processor() -> str:
    """Name of the CPU, or an empty string."""
    try:
        lines = _CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")


FROZEN_KEY = "text_encoder.features"
_LEARNED_KEY = "text_encoder.vectors"


def rows_per_class(config: RunConfig, prompts: Sequence[Sequence[str]]) -> list[int]:
    """Prompts, or learned vectors, of each class, [C]."""
    if config.text_encoder.family == "prompts":
        return [config.prompts_per_class or 1] * len(prompts)
    return [len(of_class) for of_class in prompts]


def build_config_text_encoder(
    config: RunConfig,
    prompts: Sequence[Sequence[str]],
    *,
    seed: int,
    text_features: TextFeatures,
    state: Mapping[str, Tensor] | None,
) -> TextEncoder | None:
    """Build the text encoder of a config; None if it has none.

    prompts: per class, [C][P]. A frozen tower is not built here: its features come from
    `text_features`, with `seed` for `:scratch` weights. All other random numbers come from torch's
    global generator.
    state: of a whole model, loaded afterwards; nothing pretrained is then needed.
    Raises WeightsError, CheckpointError or UserError as the encoders do.
    """
    if state is not None and FROZEN_KEY in state:
        return FrozenTextFeatures(state[FROZEN_KEY])
    spec = config.text_encoder if state is None else config.text_encoder.untrained
    rows = sum(rows_per_class(config, prompts))
    flat = tuple(prompt for of_class in prompts for prompt in of_class)
    directory = Path(config.weights_dir).expanduser() if config.weights_dir else None
    if spec.family == "none":
        return None
    if spec.family == "prompts":
        start = None
        if spec.start is not None and state is None:
            features = text_features(FrozenText(spec.start, flat, directory, seed))
            start = features[_first_texts(config, prompts)]
        elif spec.start is not None and state is not None and _LEARNED_KEY in state:
            start = torch.zeros(rows, state[_LEARNED_KEY].shape[-1])
        size = config.embed_dim if start is None else start.shape[1]
        learned = LearnedPrompts(rows, size, start)
        return precompute(learned, rows) if config.freeze_text_encoder else learned
    if config.freeze_text_encoder:
        return FrozenTextFeatures(text_features(FrozenText(spec, flat, directory, seed)))
    return family_of(spec).build_text(spec, flat, directory)


def _first_texts(config: RunConfig, prompts: Sequence[Sequence[str]]) -> Tensor:
    """Index of the prompt that initialises each learned vector, [M], cycling within a class."""
    rows, first = [], 0
    for of_class, count in zip(prompts, rows_per_class(config, prompts), strict=True):
        rows += [first + number % len(of_class) for number in range(count)]
        first += len(of_class)
    return torch.tensor(rows)
