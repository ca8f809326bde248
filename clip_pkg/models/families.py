"""Encoder families: what the module of each one provides, and how it is found.

The rows are `clip_pkg.config.encoders.FAMILIES`. Modules load when the first encoder of their
family is used, because their libraries take seconds to import.

Legend: M prompts of all classes, m selected rows, L tokens of the longest prompt, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from torch import Tensor, nn

from clip_pkg.config.encoders import FAMILIES, EncoderSpec, Tower
from clip_pkg.models.assets import Asset

if TYPE_CHECKING:
    from clip_pkg.models.image_encoder import ImageEncoder


class TextTower(nn.Module):
    """Rows [m] (int64) of M fixed prompts → features [m, F].

    num_features: F. prompt_tokens: [M, L] token ids, -1 for padding. vocabulary_size: of the
    tokenizer. vocabulary: token of each row of the embeddings; None if they were not reduced.
    """

    num_features: int
    prompt_tokens: Tensor
    vocabulary_size: int
    vocabulary: Tensor | None


@dataclass(frozen=True)
class Recipe:
    """How to build an image encoder's architecture without clip_pkg.

    library: to import. model, options: stored in an export's config.json. expression: Python code
    for the encoder, where `encoder` is the JSON object with these fields.
    """

    library: str
    model: str
    options: dict[str, Any]
    expression: str


class FamilyModule(Protocol):
    """Functions of a family's module; those of towers that it does not have may be missing."""

    def assets(self, spec: EncoderSpec, tower: Tower) -> tuple[Asset, ...]:
        """Files that the encoder needs besides installed packages."""

    def build_image(
        self, spec: EncoderSpec, img_size: int, weights_dir: Path | None
    ) -> ImageEncoder:
        """Build an image encoder; random weights come from torch's global generator.

        Raises WeightsError if files are not available, CheckpointError if one does not fit.
        """

    def recipe(self, spec: EncoderSpec, img_size: int) -> Recipe:
        """How others build the image encoder."""

    def build_text(
        self, spec: EncoderSpec, prompts: Sequence[str], weights_dir: Path | None
    ) -> TextTower:
        """Build a text tower for M prompts; raises as `build_image` does."""


def family_of(spec: EncoderSpec) -> FamilyModule:
    """The module that builds an encoder."""
    return cast("FamilyModule", import_module(f"clip_pkg.models.{FAMILIES[spec.family].module}"))


def assets(spec: EncoderSpec, tower: Tower) -> tuple[Asset, ...]:
    """Assets of one tower of an encoder."""
    spec = spec.start or spec  # the encoder that initialises learned prompts
    return family_of(spec).assets(spec, tower) if spec.family in FAMILIES else ()
