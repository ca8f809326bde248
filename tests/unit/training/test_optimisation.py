from __future__ import annotations

import copy as copy_module
import math

import pytest
import torch
from torch import nn

from clip_pkg.models.precision import Precision
from clip_pkg.training.optimisation import (
    MAX_NON_FINITE_STEPS,
    Diverged,
    Optimisation,
    cosine_with_warmup,
)

FLOAT32 = Precision("cpu", None)


def optimisation(parameter: nn.Parameter, **settings: object) -> Optimisation:
    defaults = {"precision": FLOAT32, "total_steps": 100, "warmup_steps": 1, "grad_clip_norm": None}
    group = {"params": [parameter], "lr": 0.1, "weight_decay": 0.0}
    return Optimisation([group], **{**defaults, **settings})


def test_schedule_rises_linearly_and_falls_as_a_cosine_to_zero() -> None:
    factors = [cosine_with_warmup(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert factors[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
    assert factors == [*sorted(factors[:10]), *sorted(factors[10:], reverse=True)]
    assert cosine_with_warmup(100, 100, 10) == pytest.approx(0)


def test_steps_equal_plain_adamw_with_the_same_schedule() -> None:
    mine, plain = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    ours = optimisation(mine, grad_clip_norm=1.0)
    reference = torch.optim.AdamW([plain], lr=0.1, weight_decay=0.0)
    target = torch.tensor([3.0, -2.0, 0.5])
    for step in range(20):
        ours.apply(((mine - target) ** 2).sum())
        reference.param_groups[0]["lr"] = 0.1 * cosine_with_warmup(step, 100, 1)
        reference.zero_grad()
        ((plain - target) ** 2).sum().backward()
        nn.utils.clip_grad_norm_([plain], 1.0)
        reference.step()
    torch.testing.assert_close(mine, plain)


def test_a_non_finite_step_changes_nothing() -> None:
    parameter = nn.Parameter(torch.ones(2))
    ours = optimisation(parameter)
    ours.apply((parameter**2).sum())
    before = parameter.detach().clone()
    state = {k: v.clone() for k, v in ours._optimizer.state[parameter].items()}
    ours.apply((parameter * float("nan")).sum())
    assert torch.equal(parameter, before)
    assert all(torch.equal(state[k], v) for k, v in ours._optimizer.state[parameter].items())
    ours.check()


def test_ten_non_finite_steps_in_a_row_are_divergence_and_nine_are_not() -> None:
    parameter = nn.Parameter(torch.ones(2))
    ours = optimisation(parameter)
    for _ in range(MAX_NON_FINITE_STEPS - 1):
        ours.apply((parameter * float("inf")).sum())
    ours.apply(parameter.sum())
    for _ in range(MAX_NON_FINITE_STEPS - 1):
        ours.apply((parameter * float("nan")).sum())
    ours.check()
    ours.apply((parameter * float("nan")).sum())
    with pytest.raises(Diverged, match="10 steps in a row"):
        ours.check()


def test_state_round_trip_continues_to_the_bit() -> None:
    parameter = nn.Parameter(torch.ones(4))
    ours = optimisation(parameter)
    losses = [torch.tensor([float(n), 1.0, -n, 2.0]) for n in range(6)]
    for vector in losses[:3]:
        ours.apply((parameter * vector).sum() ** 2)
    copy = nn.Parameter(parameter.detach().clone())
    other = optimisation(copy)
    other.load_state_dict(copy_module.deepcopy(ours.state_dict()))
    for vector in losses[3:]:
        ours.apply((parameter * vector).sum() ** 2)
        other.apply((copy * vector).sum() ** 2)
    assert torch.equal(parameter, copy)
    assert ours.factor == other.factor
