from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from clip_pkg.base.errors import CheckpointError, UserError, WeightsError
from clip_pkg.config.encoders import EncoderSpec, parse_text_encoder
from clip_pkg.models.hf_text import build_text

transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "photo",
    "of",
    "loose",
    "cup",
    "松",
    "动",
]
PROMPTS = ["a photo of a loose cup", "松动", "cup"]


def save_bert(folder: Path, *, head: bool = False, safe: bool = True) -> Any:
    """Save a tiny BERT with a tokenizer, as the hub would hold it."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    model = (transformers.BertForMaskedLM if head else transformers.BertModel)(config).eval()
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model


def spec_of(folder: Path, suffix: str = "") -> EncoderSpec:
    return parse_text_encoder(f"hf:{folder}{suffix}")


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("head", [True, False])
def test_features_are_the_mean_over_each_prompts_own_tokens(
    tmp_path: Path, head: bool, safe: bool
) -> None:
    saved = save_bert(tmp_path, head=head, safe=safe)
    model = saved.bert if head else saved
    encoder = build_text(spec_of(tmp_path), PROMPTS, None).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        found = encoder(torch.tensor([1, 0, 2]))
        for row, prompt in zip(found, [PROMPTS[1], PROMPTS[0], PROMPTS[2]], strict=True):
            hidden = model(**tokenizer(prompt, return_tensors="pt")).last_hidden_state
            assert torch.allclose(row, hidden[0].mean(dim=0), atol=1e-6)
    assert found.shape == (3, encoder.num_features) == (3, 16)


def test_words_of_the_vocabulary_are_read(tmp_path: Path) -> None:
    save_bert(tmp_path)
    encoder = build_text(spec_of(tmp_path), PROMPTS, None)
    assert encoder.tokens[1, :4].tolist() == [2, 10, 11, 3]
    assert encoder.tokens.shape == (3, 8)


def test_every_parameter_is_trained_and_dropout_follows_the_mode(tmp_path: Path) -> None:
    save_bert(tmp_path)
    encoder = build_text(spec_of(tmp_path), PROMPTS, None)
    encoder.train()(torch.arange(3)).sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    encoder.eval()
    rows = torch.arange(3)
    assert torch.equal(encoder(rows), encoder(rows))


def test_scratch_takes_the_configuration_and_not_the_weights(tmp_path: Path) -> None:
    model = save_bert(tmp_path)
    name = "embeddings.word_embeddings.weight"
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        encoder = build_text(spec_of(tmp_path, ":scratch"), PROMPTS, None)
        states.append(encoder.model.state_dict()[name])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert not torch.equal(states[0], model.state_dict()[name])
    (tmp_path / "model.safetensors").unlink()
    build_text(spec_of(tmp_path, ":scratch"), PROMPTS, None)


def test_a_hub_name_is_served_from_a_weights_dir(tmp_path: Path, no_network: Path) -> None:
    save_bert(tmp_path / "bert-base-chinese")
    encoder = build_text(parse_text_encoder("bert-base-chinese"), PROMPTS, tmp_path)
    assert encoder.num_features == 16


def test_half_precision_files_are_trained_in_float32(tmp_path: Path) -> None:
    save_bert(tmp_path).half().save_pretrained(tmp_path)
    encoder = build_text(spec_of(tmp_path), PROMPTS, None)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_a_prompt_that_is_too_long_is_cut_to_the_models_limit(tmp_path: Path) -> None:
    save_bert(tmp_path)
    encoder = build_text(spec_of(tmp_path), ["cup " * 90], None)
    assert encoder.tokens.shape == (1, 32)
    encoder(torch.tensor([0]))


class Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_weights_that_would_run_code_are_refused_unrun(tmp_path: Path) -> None:
    save_bert(tmp_path, safe=False)
    torch.save({"a": Hostile(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        build_text(spec_of(tmp_path), PROMPTS, None)
    assert not (tmp_path / "ran").exists()


def test_weights_with_a_gap_are_refused(tmp_path: Path) -> None:
    model = save_bert(tmp_path, safe=False)
    state = model.state_dict()
    del state["encoder.layer.1.output.dense.weight"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="missing.*layer.1.output.dense.weight"):
        build_text(spec_of(tmp_path), PROMPTS, None)


def test_a_folder_that_transformers_cannot_use_is_named(tmp_path: Path) -> None:
    save_bert(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(UserError, match="transformers cannot use"):
        build_text(spec_of(tmp_path), PROMPTS, None)


def test_a_model_with_an_image_side_is_refused(tmp_path: Path) -> None:
    save_bert(tmp_path)
    transformers.CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="clip:<model>"):
        build_text(spec_of(tmp_path), PROMPTS, None)


@pytest.mark.usefixtures("no_network")
def test_a_model_that_is_not_here_is_named() -> None:
    with pytest.raises(WeightsError, match="configuration, weights, tokenizer of some/model"):
        build_text(parse_text_encoder("hf:some/model"), PROMPTS, None)


def test_without_transformers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'pip install "clip_pkg\[hf\]"'):
        build_text(spec_of(tmp_path), PROMPTS, None)
