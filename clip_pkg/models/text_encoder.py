"""The text side of a model: features of chosen rows of a fixed, flat list of prompts.

Legend: C classes, M prompts of all classes one after another, m chosen rows, F features.
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
from clip_pkg.models.clip_text import ClipText, build_clip_text
from clip_pkg.models.hf_text import HfText, build_hf_text
from clip_pkg.models.weights import WeightsRequest, files_in_use

_ROWS_AT_ONCE = 256


class LearnedPrompts(nn.Module):
    """One free vector per prompt instead of a text tower.

    Args:
        rows: M vectors.
        num_features: F.
        start: [M, F] what the vectors begin as; None draws them.
    """

    def __init__(self, rows: int, num_features: int, start: Tensor | None = None) -> None:
        super().__init__()
        self.num_features = num_features
        # Vectors that are drawn lie in the joint space already; those of a tower lie in its own.
        self.in_joint_space = start is None
        self.vectors = nn.Parameter(torch.empty(rows, num_features))
        if start is None:
            nn.init.normal_(self.vectors, std=0.02)
        else:
            with torch.no_grad():
                self.vectors.copy_(start)

    def forward(self, prompt_rows: Tensor) -> Tensor:
        """Pick the chosen vectors."""
        return self.vectors[prompt_rows]


class FrozenTextFeatures(nn.Module):
    """Features [M, F] that were computed once; nothing of the tower stays in memory."""

    features: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.num_features = features.shape[1]
        self.register_buffer("features", features.detach().float())

    def forward(self, prompt_rows: Tensor) -> Tensor:
        """Pick the chosen features."""
        return self.features[prompt_rows]


# Each maps rows [m] (int64) of the prompts to features [m, num_features].
TextEncoder: TypeAlias = ClipText | HfText | LearnedPrompts | FrozenTextFeatures


def build_text_encoder(
    spec: EncoderSpec,
    prompts: Sequence[str],
    *,
    embed_dim: int,
    weights_dir: Path | None = None,
) -> ClipText | HfText | LearnedPrompts:
    """Build the encoder that a config names, for M prompts.

    `:scratch` is drawn from torch's global generator. embed_dim: F of learned prompts, which come
    as they are used. Raises WeightsError, CheckpointError and UserError as the families say.
    """
    if spec.family == "clip":
        return build_clip_text(spec, prompts, weights_dir)
    if spec.family == "hf":
        return build_hf_text(spec, prompts, weights_dir)
    assert spec.family == "prompts", f"{spec.written} is no text encoder"
    return LearnedPrompts(len(prompts), embed_dim)


@torch.no_grad()
def precompute(encoder: TextEncoder, rows: int) -> FrozenTextFeatures:
    """Run a text encoder once over all its `rows` prompts, in evaluation mode and float32."""
    was_training = encoder.training
    encoder.eval()
    starts = range(0, rows, _ROWS_AT_ONCE)
    parts = [encoder(torch.arange(at, min(at + _ROWS_AT_ONCE, rows))) for at in starts]
    encoder.train(was_training)
    return FrozenTextFeatures(torch.cat(parts))


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


FROZEN_KEY = "text_encoder.features"
_LEARNED_KEY = "text_encoder.vectors"


def rows_per_class(config: RunConfig, prompts: Sequence[Sequence[str]]) -> list[int]:
    """Rows of each class [C]: the prompts there are, or the vectors that are to be learned."""
    if config.text_encoder.family == "prompts":
        return [config.prompts_per_class or 1] * len(prompts)
    return [len(of_class) for of_class in prompts]


def build_text_side(
    config: RunConfig,
    prompts: Sequence[Sequence[str]],
    *,
    seed: int,
    text_features: TextFeatures,
    state: Mapping[str, Tensor] | None,
) -> TextEncoder | None:
    """Build the text encoder of a config, None where it has none.

    prompts: of each class, [C][P]. A tower that is not trained is not built here: its features come
    from `text_features`; `seed` draws the weights of a `:scratch` one. Everything else that is
    random comes from torch's global generator.
    state: a whole model's that is loaded afterwards; then nothing pretrained is needed.
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
    return build_text_encoder(spec, flat, embed_dim=config.embed_dim, weights_dir=directory)


def _first_texts(config: RunConfig, prompts: Sequence[Sequence[str]]) -> Tensor:
    """Flat prompt that each learned vector begins as, [M]: a class's own, over and over."""
    rows, first = [], 0
    for of_class, count in zip(prompts, rows_per_class(config, prompts), strict=True):
        rows += [first + number % len(of_class) for number in range(count)]
        first += len(of_class)
    return torch.tensor(rows)
