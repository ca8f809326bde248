"""The log-sum-exp of large matrices against torch's own."""

from __future__ import annotations

import pytest
import torch

from clip_pkg.losses.functional.numerics import logsumexp, lowest


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("left_out", [False, True])
def test_value_and_gradient_are_those_of_torch(dim: int, left_out: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = 50 * torch.randn(5, 7, generator=generator, dtype=torch.float64)
    if left_out:
        values[:, 2] = values[3] = lowest(values)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    upstream = torch.randn(values.sum(dim).shape, generator=generator, dtype=torch.float64)
    result, reference = logsumexp(ours, dim), torch.logsumexp(theirs, dim)
    assert torch.equal(result, reference)
    result.backward(upstream)
    reference.backward(upstream)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.isfinite(ours.grad).all()
    assert torch.equal(ours.grad, theirs.grad)


def test_nothing_is_written_to_what_comes_in() -> None:
    values = torch.randn(3, 4, requires_grad=True)
    before, upstream = values.detach().clone(), torch.ones(3)
    logsumexp(values, 1).backward(upstream)
    assert torch.equal(values.detach(), before)
    assert torch.equal(upstream, torch.ones(3))
