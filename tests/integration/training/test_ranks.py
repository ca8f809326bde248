"""Several processes: the gradients of one, everywhere the same; who has what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.base.errors import UserError
from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES
from clip_pkg.config.losses import LOSSES
from clip_pkg.training.batch_norm import batch_norms, share_statistics
from clip_pkg.training.ranks import ALONE, Ranks, rank_device
from support.tiny import program_environment
from support.training_steps import build

TESTS = str(Path(__file__).resolve().parents[2])
PROGRAM = Path(__file__).resolve().parents[2] / "support" / "training_steps.py"


AUX = list(AUXILIARY_LOSSES)
CASES: list[dict[str, Any]] = [
    *({"ranks": 2, "kind": kind, "aux": AUX} for kind in LOSSES),
    {"ranks": 2, "kind": "clip", "aux": AUX, "most": 4},  # two parts on each rank
    {"ranks": 2, "kind": "clip", "aux": [], "encoder": "test_resnet:scratch"},
    {"ranks": 2, "kind": "clip", "aux": [], "encoder": "test_resnet:scratch", "most": 4},
    {"ranks": 3, "kind": "clip", "aux": [], "images": 2},  # the third rank has none
    {"ranks": 3, "kind": "ce", "aux": ["center"], "images": 7},
]


def test_ranks_leave_the_gradients_of_one_process_and_are_all_the_same() -> None:
    environment = program_environment()
    done = subprocess.run(
        [sys.executable, str(PROGRAM), json.dumps(CASES)],
        env={**environment, "PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], TESTS])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [result for line in done.stdout.splitlines() for result in json.loads(line)]
    for case, result in zip(CASES, found, strict=True):
        assert result["distance"] < 1e-12, case
        assert result["same"], case


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_cover_everything_once_and_nobody_has_nothing(rows: int, size: int) -> None:
    everything = list(range(rows))
    shares = [everything[Ranks(rank, size).share(rows)] for rank in range(size)]
    assert all(shares) or not rows
    counted = [row for share in shares for row in share]
    assert set(counted) == set(everything)
    if rows >= size:
        assert counted == everything
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_nothing_is_exchanged() -> None:
    values = torch.arange(3.0)
    assert ALONE.joined(values, 3) is values
    ALONE.average([values])
    ALONE.copy_from_leader([values])
    ALONE.announce("train", 1)
    assert torch.equal(values, torch.arange(3.0))


def test_fewer_gpus_than_ranks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="the fold needs 2 GPUs, but only 1 are visible"):
        rank_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert rank_device("cuda:0") == torch.device("cuda:1")
    assert rank_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("encoder", ["test_resnet:scratch", "clip:RN50:scratch"])
def test_layers_that_share_statistics_are_the_same_model(encoder: str) -> None:
    model, _ = build("clip", (), torch.float32, 0.0, encoder)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = model.eval().image_embeddings(images)
    parameters = dict(model.named_parameters())
    names = list(model.state_dict())
    count = len(batch_norms(model.train().image_encoder))
    share_statistics(model.image_encoder)
    layers = batch_norms(model.image_encoder)
    assert len(layers) == count > 0
    assert all(isinstance(layer, torch.nn.SyncBatchNorm) for layer in layers)
    assert list(model.state_dict()) == names
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    torch.testing.assert_close(model.eval().image_embeddings(images), wanted)
