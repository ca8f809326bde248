from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.data.sampling import StreamKey, derive_seed, uniforms

KEY = StreamKey(seed=42, fold=1, epoch=3, stream="augmentation")
MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def splitmix(state: int) -> int:
    """Next output of the published generator, in Python's own integers."""
    z = (state + GAMMA) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_reference_is_splitmix64() -> None:
    assert splitmix(0) == 0xE220A8397B1DCDAF  # published first output of seed 0


@pytest.mark.parametrize("index", [0, 1, 7, 2**40])
def test_numbers_are_those_of_the_published_generator(index: int) -> None:
    state = splitmix((derive_seed(*KEY) + index * GAMMA) & MASK)
    expected = [(splitmix((state + n * GAMMA) & MASK) >> 11) / 2**53 for n in range(5)]
    assert uniforms(KEY, np.array([index]), 5)[0].tolist() == expected


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=40), st.integers(1, 8))
def test_a_row_depends_on_its_own_image_only(indices: list[int], count: int) -> None:
    together = uniforms(KEY, np.array(indices), count)
    assert together.dtype == np.float64
    assert ((together >= 0) & (together < 1)).all()
    for index, row in zip(indices, together, strict=True):
        alone = uniforms(KEY, np.array([index]), count + 2)[0]
        np.testing.assert_array_equal(row, alone[:count])


@pytest.mark.parametrize(
    "other",
    [
        KEY._replace(seed=43),
        KEY._replace(fold=2),
        KEY._replace(epoch=4),
        KEY._replace(stream="order"),
    ],
)
def test_every_part_of_the_key_matters(other: StreamKey) -> None:
    index = np.arange(2000)
    mine, theirs = uniforms(KEY, index, 3).ravel(), uniforms(other, index, 3).ravel()
    assert not np.isin(mine, theirs).any()
    # 6000 pairs: independent uniforms correlate by less than 5 / sqrt(6000)
    assert abs(np.corrcoef(mine, theirs)[0, 1]) < 5 / np.sqrt(mine.size)


def test_numbers_look_uniform_and_independent() -> None:
    numbers = uniforms(KEY, np.arange(20_000), 6)
    assert len(np.unique(numbers)) == numbers.size
    assert abs(numbers.mean() - 0.5) < 5 / np.sqrt(12 * numbers.size)
    histogram = np.histogram(numbers, bins=100, range=(0, 1))[0]
    expected = numbers.size / 100
    chi_square = ((histogram - expected) ** 2 / expected).sum()
    assert 40 < chi_square < 180  # 99 degrees of freedom: mean 99, SD 14
    limit = 5 / np.sqrt(len(numbers))
    between_columns = np.corrcoef(numbers.T) - np.eye(6)
    assert np.abs(between_columns).max() < limit
    for lag in (1, 2, 16, 32, 256):  # neighbours in a batch, or in the manifest
        assert abs(np.corrcoef(numbers[:-lag, 0], numbers[lag:, 0])[0, 1]) < limit


def test_no_images_no_numbers() -> None:
    assert uniforms(KEY, np.array([], dtype=np.int64), 4).shape == (0, 4)


def test_seeds_are_frozen() -> None:
    # a changed value would silently change every published number
    assert derive_seed(42, 1, 3, "augmentation") == 5743113655708920123


def test_seeds_separate_their_parts() -> None:
    different = [(1, 23), (12, 3), (123,), ("123",), ("1", "23"), ("1,23",), ()]
    seeds = [derive_seed(*parts) for parts in different]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(np.int64(7)) == derive_seed(7)  # type: ignore[arg-type]
