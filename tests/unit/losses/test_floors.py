"""The floors of docs/losses.md: what a model that separates all classes perfectly still loses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from clip_pkg.losses.functional.classification import cross_entropy
from clip_pkg.losses.functional.image_text import class_text_clip
from clip_pkg.losses.functional.labelled_contrast import supcon

COUNTS = [12, 8, 4, 4, 2, 1, 1]  # images per class of a batch of 32
TARGETS = torch.repeat_interleave(torch.arange(7), torch.tensor(COUNTS))
# Features on the axes: cosine 1 within a class, 0 between classes.
PERFECT = nn.functional.one_hot(TARGETS, 7).double()
SHARP = 100.0  # 1/temperature


def test_clip() -> None:
    floor = sum(n / 32 * math.log(n) for n in COUNTS)
    assert class_text_clip(SHARP * PERFECT, TARGETS).item() == pytest.approx(floor, abs=1e-9)
    assert round(floor, 2) == 1.84
    # A batch of 64 from 9 classes that are drawn equally often.
    assert round(math.log(64 / 9), 2) == 1.96


def test_supcon() -> None:
    of_several = [n for n in COUNTS if n > 1]
    floor = sum(n / sum(of_several) * math.log(n - 1) for n in of_several)
    found = supcon(PERFECT, TARGETS, temperature=1 / SHARP)
    assert found.item() == pytest.approx(floor, abs=1e-9)


@pytest.mark.parametrize(("smoothing", "classes"), [(0.1, 9), (0.2, 3)])
def test_soft_labels(smoothing: float, classes: int) -> None:
    others = smoothing / classes
    own = 1 - smoothing + others
    floor = -own * math.log(own) - (classes - 1) * others * math.log(others)
    shares = torch.full((4, classes), others, dtype=torch.float64)
    shares[:, 0] = own
    best = shares.log()  # the softmax of these logits is the label itself
    assert cross_entropy(best, shares).item() == pytest.approx(floor, abs=1e-12)
    assert cross_entropy(best + 0.1 * torch.randn(4, classes).double(), shares).item() > floor
