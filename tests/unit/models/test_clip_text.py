from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from clip_pkg.base.errors import CheckpointError, WeightsError
from clip_pkg.config.encoders import EncoderSpec, parse_text_encoder
from clip_pkg.models.clip_towers import build_text

PROMPTS = [
    "a photo of a cat",
    "an X-ray of a loose acetabular cup, seen from the front",
    "松动",
    "a",
]
CUT = ("tiny-causal", "tiny-custom", "tiny-eos")
WHOLE = ("tiny-bidirectional", "tiny-class-token")

Saved = Callable[[str], tuple[Any, Path]]
Spec = Callable[..., EncoderSpec]


def tokens_of(name: str) -> Tensor:
    tokens: Tensor = open_clip.get_tokenizer(name)(PROMPTS)
    return tokens


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
def test_features_are_those_of_the_whole_tower(
    name: str, saved_clip: Saved, tiny_spec: Spec
) -> None:
    model, path = saved_clip(name)
    encoder = build_text(tiny_spec(name), PROMPTS, path).eval()
    rows = torch.tensor([2, 0, 3, 1, 1])
    with torch.no_grad():
        expected = model.encode_text(tokens_of(name))[rows]
        found = encoder(rows)
    assert found.shape == (5, encoder.num_features)
    assert (found - expected).abs().max() < 1e-6


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
def test_gradients_are_those_of_the_whole_tower(
    name: str, saved_clip: Saved, tiny_spec: Spec
) -> None:
    model, path = saved_clip(name)
    encoder = build_text(tiny_spec(name), PROMPTS, path).eval()
    encoder(torch.arange(len(PROMPTS))).square().sum().backward()
    model.encode_text(tokens_of(name)).square().sum().backward()
    whole = model if name == "tiny-causal" else model.text
    table = whole.token_embedding.weight.grad
    assert encoder.vocabulary is not None
    unused = torch.ones(len(table), dtype=torch.bool)
    unused[encoder.vocabulary] = False
    assert not table[unused].any()
    pairs = {"token_embedding.weight": table[encoder.vocabulary]} | {
        n: whole.get_parameter(n).grad
        for n, _ in encoder.tower.named_parameters()
        if n != "token_embedding.weight"
    }
    for parameter, expected in pairs.items():
        found = encoder.tower.get_parameter(parameter).grad
        assert (found - expected).abs().max() < 1e-5 * max(1, expected.abs().max()), parameter


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
def test_prompts_are_cut_only_where_that_is_exact(name: str, tiny_spec: Spec) -> None:
    encoder = build_text(tiny_spec(name, "scratch"), PROMPTS, None)
    whole = tokens_of(name)
    longest = int((whole != 0).sum(dim=1).max())
    length = longest if name in CUT else whole.shape[1]
    assert encoder.tokens.shape == (len(PROMPTS), length)


def test_only_tokens_in_use_are_kept(tiny_spec: Spec) -> None:
    encoder = build_text(tiny_spec("tiny-causal", "scratch"), PROMPTS, None)
    expected = tokens_of("tiny-causal").unique()
    assert encoder.vocabulary is not None
    assert torch.equal(encoder.vocabulary, expected)
    assert encoder.tower.get_parameter("token_embedding.weight").shape == (len(expected), 32)


def test_there_is_no_image_tower_and_tokens_stay_out_of_the_checkpoint(tiny_spec: Spec) -> None:
    encoder = build_text(tiny_spec("tiny-causal", "scratch"), PROMPTS, None)
    names = list(encoder.state_dict())
    assert not any("visual" in name for name in names)
    assert "tokens" not in names
    assert "vocabulary" in names


def test_every_parameter_is_trained(tiny_spec: Spec) -> None:
    encoder = build_text(tiny_spec("tiny-custom", "scratch"), PROMPTS, None)
    encoder(torch.arange(4)).sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


def test_the_last_token_survives_in_a_prompt_that_is_too_long(
    tiny_spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        encoder = build_text(tiny_spec("tiny-causal", "scratch"), ["word " * 100, "a"], None)
    assert encoder.tokens.shape == (2, 77)
    assert "reads 77 tokens; truncating a prompt of 102: word word" in caplog.text


def test_scratch_weights_follow_torchs_seed(tiny_spec: Spec) -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        encoder = build_text(tiny_spec("tiny-causal", "scratch"), PROMPTS, None)
        states.append(encoder.state_dict())
    first, second, third = states
    assert all(torch.equal(first[name], second[name]) for name in first)
    name = "tower.token_embedding.weight"
    assert not torch.equal(first[name], third[name])


def test_a_file_of_another_model_is_refused(saved_clip: Saved, tiny_spec: Spec) -> None:
    _, path = saved_clip("tiny-class-token")
    with pytest.raises(CheckpointError, match="unexpected.*cls_emb"):
        build_text(tiny_spec("tiny-bidirectional"), PROMPTS, path)


@pytest.mark.usefixtures("no_network")
def test_a_tokenizer_that_is_not_here_is_named() -> None:
    spec = parse_text_encoder("clip:ViT-B-16-SigLIP:scratch")
    with pytest.raises(WeightsError, match="the tokenizer timm/ViT-B-16-SigLIP not found"):
        build_text(spec, PROMPTS, None)


def test_openais_weights_use_the_activation_they_were_trained_with() -> None:
    from clip_pkg.models.clip_towers import visual_tower

    openai = parse_text_encoder("clip:ViT-B/32")
    other = parse_text_encoder("clip:ViT-B/32:laion2b_s34b_b79k")
    with torch.device("meta"):
        assert "QuickGELU" in repr(visual_tower(openai, 32, None))
        assert "QuickGELU" not in repr(visual_tower(other, 32, None))


def test_a_tower_from_transformers_is_open_clips(tmp_path: Path, tiny_spec: Spec) -> None:
    transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "cat"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=77,
    ).save_pretrained(tmp_path)  # fmt: skip
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {"hf_model_name": str(tmp_path), "hf_tokenizer_name": str(tmp_path)},
    }
    (tmp_path / "tiny-transformers.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-transformers.json")
    model = open_clip.create_model("tiny-transformers", pretrained_text=False).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    encoder = build_text(tiny_spec("tiny-transformers"), PROMPTS, tmp_path / "weights.pt")
    assert encoder.tokens.shape[1] < 77
    assert encoder.vocabulary is None
    with torch.no_grad():
        found = encoder.eval()(torch.arange(4))
        expected = model.encode_text(open_clip.get_tokenizer("tiny-transformers")(PROMPTS))
    assert (found - expected).abs().max() < 1e-6
