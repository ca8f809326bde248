"""The benchmarks of coverage and of random labels measure and write what they say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import coverage, random_labels
from benchmarks.coverage import SHOWN, World, draw


def test_classes_have_the_recalls_of_their_world() -> None:
    world = World((3, 2), (0.9, 0.6))
    probabilities, targets = draw((20_000, 20_000), world.shifts(), np.random.default_rng(0))
    right = probabilities.argmax(axis=1) == targets
    assert right[targets == 0].mean() == pytest.approx(0.9, abs=0.01)
    assert right[targets == 1].mean() == pytest.approx(0.6, abs=0.015)


def test_most_intervals_cover() -> None:
    found, empty = coverage.coverage(World((40, 20, 8), (0.9, 0.8, 0.7)), 30, seed=0)
    assert set(found) == set(SHOWN)
    assert all(share >= 0.8 for share in found.values()), found
    assert empty == 0


def test_random_labels_are_trained_and_summed_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(random_labels, "IMAGES", 24)
    monkeypatch.setattr(random_labels, "RATES", [1e-3, 2e-3])
    small = {**random_labels.CONFIG, "epochs": 2, "n_splits": 2}
    monkeypatch.setattr(random_labels, "CONFIG", small)
    random_labels.main(["--seeds", "1", "--winners", "1"])
    text = capsys.readouterr().out
    assert "| val_loss | 1 |" in text
    assert "| best of 10 configs | 1 |" in text
