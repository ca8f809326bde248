"""The text side of a model: features of chosen rows of a fixed, flat list of prompts.

Legend: C classes, M prompts of all classes one after another, m chosen rows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.encoders.clip_text import ClipText, build_clip_text
from clip_pkg.encoders.hf_text import HfText, build_hf_text

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
