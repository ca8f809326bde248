"""A text tower that is not trained: its features, and what they follow from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from clip_pkg.base.errors import WeightsError
from clip_pkg.config.encoders import EncoderSpec
from clip_pkg.models.text_encoder import FrozenText

PROMPTS = ("a photo of a cup", "loose")


def test_drawn_from_the_seed_and_from_nothing_else(tiny_spec: Callable[..., EncoderSpec]) -> None:
    text = FrozenText(tiny_spec("tiny-custom", "scratch"), PROMPTS, None, 4)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    features = text.features()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(text.features(), features)
    assert not torch.allclose(replace(text, seed=5).features(), features, atol=1e-3)
    assert features.dtype == torch.float32
    assert not features.requires_grad


def test_a_pretrained_tower_gives_open_clips_features(
    tiny_spec: Callable[..., EncoderSpec],
    saved_clip: Callable[[str], tuple[Any, Path]],
    empty_caches: Path,
) -> None:
    model, file = saved_clip("tiny-causal")
    text = FrozenText(tiny_spec("tiny-causal"), PROMPTS, file, 0)
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("tiny-causal")(list(PROMPTS)))
    assert torch.allclose(text.features(), expected, atol=1e-5)
    # Its weights are read, so the seed decides nothing.
    assert replace(text, seed=1).made_from() == text.made_from()

    before = text.made_from()
    ((name, size, modified),) = before["files"]
    assert (name, size) == (str(file.resolve()), file.stat().st_size)
    os.utime(file, ns=(modified + 1, modified + 1))
    assert text.made_from() != before
    file.unlink()
    with pytest.raises(WeightsError, match="not found on this machine"):
        text.made_from()
    with pytest.raises(WeightsError, match="not found on this machine"):
        text.features()


def test_every_part_of_a_folder_counts(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    spec = EncoderSpec("hf", str(tmp_path), "pretrained", None, f"hf:{tmp_path}")
    text = FrozenText(spec, PROMPTS, None, 0)
    seen = [text.made_from()]
    for name in ("config.json", "tokenizer.json", "model.safetensors", "added_tokens.json"):
        (tmp_path / name).write_text("{ }", encoding="utf-8")
        seen.append(text.made_from())
    assert all(one != other for one, other in pairwise(seen))
    assert len(seen[-1]["files"]) == 4


def test_how_a_config_spells_it_does_not_matter(tiny_spec: Callable[..., EncoderSpec]) -> None:
    spec = tiny_spec("tiny-custom", "scratch")
    text = FrozenText(spec, PROMPTS, None, 4)
    assert replace(text, spec=replace(spec, written="CLIP")).made_from() == text.made_from()
    other = tiny_spec("tiny-eos", "scratch")
    assert replace(text, spec=other).made_from() != text.made_from()
