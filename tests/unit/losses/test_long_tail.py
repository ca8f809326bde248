"""The losses for long tails against their papers' formulas, written once more, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clip_pkg.config.load import configs_from_mapping
from clip_pkg.config.losses import LdamLossConfig
from clip_pkg.losses.contract import TrainingSet
from clip_pkg.losses.functional import adjusted_cross_entropy, cross_entropy, ldam
from clip_pkg.losses.long_tail import LdamObjective
from support.loss_batches import batch

COUNTS = torch.tensor([5000, 300, 40, 7, 1])
EXTREME = torch.tensor([10**6, 1, 10**6, 1, 10**6])


def sample(seed: int = 0, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, 5, generator=generator, dtype=torch.float64) * 3
    return logits.requires_grad_(), torch.randint(5, (size,), generator=generator)


def same(found: Tensor, expected: Tensor, leaf: Tensor) -> None:
    (mine,) = torch.autograd.grad(found, leaf)
    (theirs,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("counts", [COUNTS, EXTREME])
def test_logit_adjustment(tau: float, counts: Tensor) -> None:
    logits, labels = sample()
    frequency = counts.double() / counts.sum()
    losses = []
    for row, y in zip(logits, labels.tolist(), strict=True):
        others = sum(
            (frequency[k] / frequency[y]) ** tau * (row[k] - row[y]).exp()
            for k in range(5)
            if k != y
        )
        losses.append((1 + others).log())  # equation 10
    same(
        adjusted_cross_entropy(logits, labels, counts, tau=tau), torch.stack(losses).mean(), logits
    )


@pytest.mark.parametrize("counts", [COUNTS, EXTREME])
def test_balanced_softmax(counts: Tensor) -> None:
    logits, labels = sample(1)
    weighted = counts.double() * logits.exp()
    chosen = weighted.gather(1, labels[:, None])[:, 0]
    expected = -(chosen / weighted.sum(dim=1)).log().mean()  # equation 4
    same(adjusted_cross_entropy(logits, labels, counts), expected, logits)


@pytest.mark.parametrize("counts", [COUNTS, EXTREME])
@pytest.mark.parametrize("weighted", [False, True])
def test_ldam(counts: Tensor, weighted: bool) -> None:
    logits, labels = sample(2)
    cosines = (logits.detach() / 10).requires_grad_()
    weights = torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    constant = 0.5 * counts.min().double() ** 0.25
    losses, of = [], []
    for row, y in zip(cosines, labels.tolist(), strict=True):
        own = 30 * (row[y] - constant / counts[y].double() ** 0.25)
        others = sum((30 * row[k]).exp() for k in range(5) if k != y)
        losses.append(-(own.exp() / (own.exp() + others)).log())  # equation 12
        of.append(weights[y] if weighted else torch.ones((), dtype=torch.float64))
    share = torch.stack(of)
    expected = (torch.stack(losses) * share).sum() / share.sum()
    found = ldam(cosines, labels, counts, class_weights=weights if weighted else None)
    same(found, expected, cosines)


def test_without_imbalance_nothing_is_adjusted() -> None:
    logits, labels = sample(3)
    alike = torch.full((5,), 20)
    plain = cross_entropy(logits, labels)
    torch.testing.assert_close(adjusted_cross_entropy(logits, labels, alike), plain)
    torch.testing.assert_close(ldam(logits / 30, labels, alike, max_margin=0.0), plain)


@pytest.mark.parametrize("counts", [EXTREME, torch.tensor([0, 0, 5, 1, 10**6])])
def test_it_is_finite_at_extreme_counts_and_logits(counts: Tensor) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0, 0.0]] * 5, requires_grad=True)
    labels = torch.arange(5)
    for loss in (
        adjusted_cross_entropy(logits, labels, counts),
        ldam(logits / 1e4, labels, counts),
    ):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert math.isfinite(loss.item())
        assert gradient.isfinite().all()


def test_classes_are_weighted_in_the_last_epochs_of_training_only() -> None:
    torch.manual_seed(0)
    objective = LdamObjective(LdamLossConfig(reweight_from=0.75), TrainingSet(COUNTS, 8))
    inputs = batch([0, 1, 2, 3, 4, 0, 0])

    def loss(done: float) -> float:
        objective.start_epoch(done)
        return float(objective(inputs).total.detach())

    early, late = loss(0.5), loss(0.75)
    assert early != late
    assert loss(0.0) == early, "an epoch that is repeated after an interruption has its own weights"
    size = (1 - 0.9999 ** COUNTS.double()) / (1 - 0.9999)  # Cui et al. 2019, equation 2
    wanted = (1 / size) / (1 / size).mean()
    objective.start_epoch(0.9)
    torch.testing.assert_close(objective.epoch_weights, wanted.float())
    objective.eval()
    assert float(objective(inputs).total.detach()) == early


@pytest.mark.parametrize("kind", ["logit_adjust", "balanced_softmax", "ldam"])
def test_a_second_correction_is_refused_or_noticed(kind: str) -> None:
    loaded = configs_from_mapping([{"loss": {"type": kind}, "use_weighted_sampling": True}])
    assert f'"{kind}", by its nature, corrects it a second time' in loaded.notices[0]
    with pytest.raises(Exception, match="class_weighting"):
        configs_from_mapping([{"loss": {"type": kind, "class_weighting": "balanced"}}])
