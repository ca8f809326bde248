from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_pkg.study.duplicates import (
    TILE,
    are_alike,
    equal_members,
    linked_sets,
    merge_clusters,
    similar_clusters,
)
from clip_pkg.study.scan import scan

ImageSet = Callable[..., Path]


def smooth(seed: int, side: int = 200) -> Image.Image:
    """A picture with structure at all scales, as photographs have."""
    random = np.random.default_rng(seed)
    picture = np.zeros((side, side))
    for cells in (3, 5, 9, 17, 40):
        coarse = Image.fromarray(random.normal(0, 255 / cells, (cells, cells)).astype(np.float32))
        picture += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(picture + 120, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 30": lambda image: jpeg(image, 30),
    "half size": lambda image: image.resize((100, 100), Image.Resampling.LANCZOS),
    "half size, JPEG 60": lambda image: jpeg(image.resize((100, 100)), 60),
    "cropped by 1 px": lambda image: image.crop((1, 1, 200, 200)),
    "brighter": lambda image: image.point(lambda level: min(255, level + 8)),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_nothing_else(kind: str, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(12):
            smooth(100 * (label == "b") + number).save(tmp_path / label / f"{number:02}.png")
    COPIES[kind](smooth(5)).save(tmp_path / "a" / "copy.png")
    result = scan(tmp_path)
    assert result.audit.near_duplicates == (("a/05.png", "a/copy.png"),)
    assert result.audit.exact_duplicates == ()
    assert result.linked == ((5, 12),)
    assert any("near copies: 2 images in 1 clusters" in line for line in result.audit.lines())


def test_exact_copies_by_bytes_and_by_pixels(image_set: ImageSet) -> None:
    root = image_set({"a": 4, "b": 3})
    shutil.copy(root / "a" / "000.png", root / "a" / "x bytes.png")
    Image.open(root / "a" / "000.png").save(root / "a" / "y pixels.bmp")
    Image.open(root / "a" / "000.png").save(root / "a" / "z pixels.webp", lossless=True)
    result = scan(root)
    copies = ("a/000.png", "a/x bytes.png", "a/y pixels.bmp", "a/z pixels.webp")
    assert result.audit.exact_duplicates == (copies,)
    assert result.linked == ((0, 4, 5, 6),)


def test_near_copies_under_different_labels_are_mentioned(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(3):
            smooth(10 * (label == "b") + number).save(tmp_path / label / f"{number}.png")
    jpeg(smooth(1), 80).save(tmp_path / "b" / "copy.jpg")
    result = scan(tmp_path)
    assert [result.manifest.paths[index] for index in result.linked[0]] == ["a/1.png", "b/copy.jpg"]
    notice = "nearly the same image with different labels (a, b): a/1.png, b/copy.jpg"
    assert notice in result.audit.notices


def test_a_set_that_looks_alike_is_reported_but_not_glued_together(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in ("fine", "scratched"):
        (tmp_path / label).mkdir()
        for number in range(15):
            picture = np.asarray(smooth(1)).astype(int) + random.normal(0, 3, (200, 200))
            picture = np.clip(picture, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / label / f"{number}.png")
    result = scan(tmp_path)
    assert result.linked == ()
    assert len(result.audit.look_alikes[0]) == 30
    assert any("30 images are similar" in notice for notice in result.audit.notices)


def test_blank_images_are_no_near_copies(image_set: ImageSet) -> None:
    root = image_set({"a": 4, "b": 2})
    Image.new("L", (40, 40), 10).save(root / "a" / "blank.png")
    Image.new("L", (40, 40), 200).save(root / "a" / "bright.png")
    result = scan(root)
    assert result.linked == ()
    assert any(
        "2 image(s) have the same level everywhere" in notice for notice in result.audit.notices
    )


def test_hip_xrays_hold_four_pairs_of_crops(hip_xrays: Path) -> None:
    result = scan(hip_xrays)
    found = {
        frozenset(Path(path).stem for path in cluster) for cluster in result.audit.near_duplicates
    }
    assert found == {
        frozenset({"control (35)", "control (79)"}),
        frozenset({"control (69)", "control (86)"}),
        frozenset({"loose (69)", "loose (72)"}),
        frozenset({"loose (76)", "loose (78)"}),
    }
    assert result.audit.notices == ()


def test_handwritten_digits_are_not_glued_together() -> None:
    from sklearn.datasets import load_digits

    thumbnails = [
        np.asarray(Image.fromarray(np.uint8(digit * 15)).resize((32, 32), Image.Resampling.BOX))
        for digit in load_digits().images
    ]
    assert sum(len(cluster) for cluster in similar_clusters(np.stack(thumbnails))) <= 4


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 25), st.lists(st.tuples(st.integers(0, 24), st.integers(0, 24)), max_size=30))
def test_disjoint_sets_agree_with_reachability(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(a % count, b % count) for a, b in pairs]
    reach = np.eye(count, dtype=bool)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = True
    for _ in range(count):
        reach = reach @ reach
    sets = linked_sets(count, pairs)
    assert sets.tolist() == [int(np.flatnonzero(row)[0]) for row in reach]
    clusters = {tuple(np.flatnonzero(row).tolist()) for row in reach if row.sum() > 1}
    assert equal_members(sets.tolist()) == tuple(sorted(clusters)) == merge_clusters(count, pairs)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.floats(0, 12))
def test_search_finds_what_comparing_all_pairs_finds(seed: int, count: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    kinds = random.normal(120, 50, (4, 8, 8)).repeat(4, axis=1).repeat(4, axis=2)
    levels = kinds[random.integers(0, 4, count)] * random.uniform(0.1, 1, (count, 1, 1))
    levels = levels + random.normal(0, 1, (count, 32, 32)) * random.uniform(
        0, spread, (count, 1, 1)
    )
    thumbnails = np.clip(levels, 0, 255).astype(np.uint8)
    flat = thumbnails.reshape(count, -1)
    first, second = np.triu_indices(count, 1)
    alike = are_alike(flat[first], flat[second])
    pairs = np.stack([first[alike], second[alike]], axis=1).tolist()
    assert similar_clusters(thumbnails) == merge_clusters(count, pairs)


def test_search_in_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    thumbnails = random.integers(0, 256, (60, 32, 32)).astype(np.uint8)
    thumbnails[[50, 57]] = thumbnails[[2, 50]]
    thumbnails[57, 0, 0] ^= 1
    whole = similar_clusters(thumbnails)
    monkeypatch.setattr("clip_pkg.study.duplicates.TILE", 7)
    assert similar_clusters(thumbnails) == whole
    assert whole[0][:2] == (2, 50)
    assert TILE > 60


def test_sets_too_large_to_search_say_so(
    image_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_set({"a": 3, "b": 2})
    monkeypatch.setattr("clip_pkg.study.duplicates.MAX_SEARCHED", 4)
    assert any("too large to search" in notice for notice in scan(root).audit.notices)
