"""The benchmark of wrong labels on drawn features instead of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import results, suspects
from benchmarks.suspects import ImageSet, change_labels, measure


@pytest.fixture
def drawn() -> ImageSet:
    random = np.random.default_rng(0)
    labels = np.arange(300) % 3
    features = random.normal(size=(300, 4))
    features[np.arange(300), labels] += 4
    return ImageSet(("a", "b", "c"), labels, features)


def test_exactly_five_percent_are_changed(drawn: ImageSet) -> None:
    confused = np.array([1, 2, 0])
    for classes in (None, confused):
        labels = change_labels(drawn, classes, np.random.default_rng(1))
        changed = labels != drawn.labels
        assert changed.sum() == 15
        if classes is not None:
            assert (labels[changed] == confused[drawn.labels[changed]]).all()


def test_wrong_labels_come_first(drawn: ImageSet) -> None:
    found = measure(drawn, None, 0)
    assert found["accuracy"] > 90
    assert found["suspects"] > 60
    assert found["recall"] > 80
    assert found["suggested"] > 80


def test_it_writes_its_section(
    drawn: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = tmp_path / "RESULTS.md"
    monkeypatch.setattr(suspects, "read_images", lambda *_: drawn)
    monkeypatch.setattr(
        suspects, "write_section", lambda n, b: results.write_section(n, b, written)
    )
    words = ["--images", "x", "--weights", "y", "--draws", "1", "--write"]
    suspects.main(words)
    body = results.section(written.read_text(encoding="utf-8"), "suspects")
    assert body is not None
    assert "300 images of `/x` in 3 equal classes, 5% of the labels changed" in body
