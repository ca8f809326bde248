from __future__ import annotations

import pytest
import torch

from clip_pkg.models.text_encoder import (
    FrozenTextFeatures,
    LearnedPrompts,
    precompute,
)


def test_learned_prompts_are_free_vectors_drawn_from_torchs_seed() -> None:
    tables = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        encoder = LearnedPrompts(300, 32)
        tables.append(encoder.vectors.detach())
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])
    assert encoder.num_features == 32
    assert float(tables[0].std()) == pytest.approx(0.02, rel=0.05)
    rows = torch.tensor([7, 7, 2])
    assert torch.equal(encoder(rows), encoder.vectors[rows])


@pytest.mark.parametrize("rows", [1, 3, 256, 300])
def test_precomputed_features_are_the_encoders(rows: int) -> None:
    encoder = LearnedPrompts(rows, 5)
    frozen = precompute(encoder, rows)
    chosen = torch.randint(rows, (4,))
    assert torch.equal(frozen(chosen), encoder(chosen))
    assert frozen.num_features == 5
    assert encoder.training


def test_frozen_features_have_nothing_to_train_but_are_saved() -> None:
    frozen = FrozenTextFeatures(torch.ones(3, 4, dtype=torch.float16, requires_grad=True))
    assert list(frozen.parameters()) == []
    assert list(frozen.state_dict()) == ["features"]
    assert not frozen(torch.arange(2)).requires_grad
    assert frozen.features.dtype == torch.float32
