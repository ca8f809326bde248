from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.copies import FOUND, inspected
from clip_pkg.study.altered_copies import are_altered_copies, candidates, describe
from clip_pkg.study.demo import make_demo
from clip_pkg.study.duplicates import altered_clusters
from clip_pkg.study.inspection import Inspection, content_box
from clip_pkg.study.scan import scan
from support.tiny import paint

EVERY = 4  # X-rays, of which each is altered


@pytest.fixture(scope="module")
def originals(hip_xrays: Path) -> Sequence[Inspection]:
    return scan(hip_xrays).inspections


@pytest.mark.parametrize("change", FOUND)
def test_altered_xrays_are_found_among_all(
    change: str, hip_xrays: Path, originals: Sequence[Inspection]
) -> None:
    files = sorted(hip_xrays.glob("*/*"))
    altered = [FOUND[change](Image.open(file).convert("L")) for file in files[::EVERY]]
    clusters = altered_clusters([*originals, *inspected(altered)])
    pairs = {(number * EVERY, len(files) + number) for number in range(len(altered))}
    found = pairs & {pair for cluster in clusters for pair in combinations(cluster, 2)}
    assert len(found) >= 0.9 * len(altered)
    assert len(clusters) <= len(altered) + 2  # two pairs are crops of one X-ray


def test_xrays_that_only_resemble_each_other_are_no_altered_copies(
    originals: Sequence[Inspection],
) -> None:
    assert len(altered_clusters(originals)) == 2  # pairs of crops of one X-ray


@pytest.mark.parametrize("side", [32, 64])
def test_stripes_that_all_images_of_a_class_share_make_no_copies(side: int, tmp_path: Path) -> None:
    for label in range(4):
        for number in range(30):
            paint(tmp_path / str(label) / f"{number}.png", label, number, side)
    assert scan(tmp_path).linked == ()


def test_digits_of_the_demo_are_no_altered_copies(tmp_path: Path) -> None:
    make_demo(tmp_path / "demo")
    assert altered_clusters(scan(tmp_path / "demo").inspections) == ()


def test_small_images_are_left_out() -> None:
    digits = inspected(
        [Image.fromarray(np.uint8(digit * 15)) for digit in load_digits().images[:200]]
    )
    assert altered_clusters(digits) == ()


def turned(image: NDArray[np.uint8], change: int) -> NDArray[np.uint8]:
    """One of eight flips and turns, or the negative."""
    return 255 - image if change == 8 else np.rot90(image[:, ::-1] if change > 3 else image, change)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 8), min_size=1, max_size=20))
def test_changes_are_undone(seed: int, changes: list[int]) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (len(changes), 32, 32)).astype(np.uint8)
    altered = [turned(image, change) for image, change in zip(noise, changes, strict=True)]
    thumbnails = np.concatenate([noise, np.stack(altered)])
    descriptions = describe(thumbnails)
    first, second = np.triu_indices(len(thumbnails), 1)
    alike = are_altered_copies(thumbnails, descriptions, first, second)
    assert alike.tolist() == (second - first == len(changes)).tolist()
    found = {(a, b) for pairs in candidates(descriptions) for a, b in pairs.T.tolist()}
    assert {(a, a + len(changes)) for a in range(len(changes))} <= found


def test_blank_thumbnails_have_no_description() -> None:
    assert not describe(np.full((3, 32, 32), 7, dtype=np.uint8)).any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=4, max_size=4), st.integers(0, 255))
def test_frames_are_cut_off(edges: list[int], level: int) -> None:
    left, top, right, bottom = edges
    inner = np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)
    framed = np.pad(inner, ((top, bottom), (left, right)), constant_values=level)
    assert content_box(framed) == (left, top, left + 50, top + 40)


def test_a_frame_around_a_frame_and_a_plain_image() -> None:
    inner = np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)
    twice = np.pad(np.pad(inner, 4, constant_values=0), 6, constant_values=255)
    assert content_box(twice) == (10, 10, 60, 50)
    left, top, right, bottom = content_box(np.zeros((20, 30), dtype=np.uint8))
    assert right - left >= 15
    assert bottom - top >= 10
