"""The text side that a config describes: which encoder stands behind the prompts of the classes.

Legend: C classes, M rows of all classes one after another: prompts, or vectors that are learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clip_pkg.config.schema import RunConfig
from clip_pkg.encoders.frozen_text import FrozenText, TextFeatures
from clip_pkg.encoders.text import (
    FrozenTextFeatures,
    LearnedPrompts,
    TextEncoder,
    build_text_encoder,
    precompute,
)

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
