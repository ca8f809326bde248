"""Copies that look different: mirrored, turned, inverted, brightened, framed or labelled images.

Legend: R thumbnails, P pairs.

Each thumbnail is equalised (levels become ranks, which brightness and gamma hardly change), its
outermost pixels are ignored (frames), the centre weighs more (labels are in corners), and it is
described by 16 × 16 coefficients of a cosine transform. They are multiplied by their frequency, and
their square roots are taken, so that details count and not what all images of one view share. A
mirrored image has the same coefficients with other signs, a quarter turn transposes them, and an
inverted image has all signs reversed: one comparison covers all these changes.

Pairs are not all compared. Locality-sensitive hashing (Andoni et al. 2015, "Practical and optimal
LSH for angular distance", section 3) gives each thumbnail `TABLES` keys that do not depend on these
changes; only thumbnails with an equal key are compared, so that time grows linearly.

Each change was made to the 206 hip X-rays in one standard view; docs/config.md says how many of the
copies are found. Their similarity is at least 0.94 except for crops and turns by more than 2°. Of
all other pairs, two X-rays of different patients reach 0.74 (mirrored), natural images of 32 × 32
px 0.65, and striped noise 0.57. Drawings with plain backgrounds are more alike: 0.95 for
handwritten digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clip_pkg.study.inspection import THUMBNAIL

MIN_SIMILARITY = 0.9  # cosine of two descriptions
MIN_FLAT_SIMILARITY = 0.97  # of two flat pictures
FLAT = 1 / 16  # share of pixels with one level, above which a picture is flat
MIN_CANDIDATE = 0.7  # before both are clipped at the same levels
MARGIN = 2  # ignored pixels at each edge, 6 % of the width
INNER = THUMBNAIL - 2 * MARGIN
TAPER = 0.3  # share of the width at each edge over which the weight rises to 1
FREQUENCIES = 16  # per axis
CLIPPED = 0.2  # share of the darkest and of the brightest pixels that candidates ignore
TABLES = 64
DIRECTIONS = 32  # random ones per quarter of the coefficients
MAX_NEIGHBOURS = 16  # compared with each thumbnail in each table
BLOCK = 4_096  # thumbnails described at a time

Indices: TypeAlias = NDArray[np.int64]
Levels: TypeAlias = NDArray[np.float32]


def _window() -> Levels:
    """[28] weights of pixels along an axis: a cosine taper."""
    edge = (np.arange(INNER) + 0.5) / INNER
    rise = np.minimum(1, np.minimum(edge, 1 - edge) / TAPER)
    return np.asarray(np.sin(rise * np.pi / 2) ** 2, dtype=np.float32)


_WINDOW = _window()
_AXIS = np.arange(FREQUENCIES)
_COSINES = np.cos(np.pi * _AXIS[:, None] * (np.arange(INNER) + 0.5) / INNER).astype(np.float32)
_COSINES[0] /= np.sqrt(np.float32(2))
_FREQUENCY = np.hypot(*np.meshgrid(_AXIS, _AXIS)).astype(np.float32)
_MIRRORED = (-1.0) ** _AXIS
# [256, 4] signs of the coefficients as they are, mirrored, upside down, and both
_SIGNS = np.stack(
    [
        np.outer(rows, columns).ravel()
        for rows in (np.ones(FREQUENCIES), _MIRRORED)
        for columns in (np.ones(FREQUENCIES), _MIRRORED)
    ],
    axis=1,
).astype(np.float32)
_INVERTED = 8  # number of the change after four flips and four flips of the transposed image


def describe(thumbnails: NDArray[np.uint8]) -> Levels:
    """[R, 16, 16] unit descriptions of thumbnails [R, 32, 32], for `candidates`; 0 without any."""
    found = np.zeros((len(thumbnails), FREQUENCIES, FREQUENCIES), dtype=np.float32)
    for start in range(0, len(thumbnails), BLOCK):
        ranks = _equalised(thumbnails[start : start + BLOCK])
        found[start : start + BLOCK] = _details(ranks.clip(CLIPPED, 1 - CLIPPED))
    return found


def candidates(descriptions: Levels) -> Iterator[Indices]:
    """Yield pairs [2, P] that may be copies, a table at a time; pairs may come several times."""
    described = np.flatnonzero(descriptions.any(axis=(1, 2)))
    for keys in _keys(descriptions[described]):
        order = np.argsort(keys, kind="stable")
        pairs = []
        for step in range(1, MAX_NEIGHBOURS + 1):
            equal = np.flatnonzero(keys[order[step:]] == keys[order[:-step]])
            if not len(equal):
                break
            pairs.append(np.stack([order[equal], order[equal + step]]))
        if pairs:
            yield described[np.concatenate(pairs, axis=1)]


def are_altered_copies(
    thumbnails: NDArray[np.uint8], descriptions: Levels, first: Indices, second: Indices
) -> NDArray[np.bool_]:
    """Whether thumbnails `first` and `second` [P] show one image, altered or not."""
    a, b = descriptions[first], descriptions[second]
    flat = (len(first), FREQUENCIES**2)
    straight = (a * b).reshape(flat) @ _SIGNS
    turned = (a * b.transpose(0, 2, 1)).reshape(flat) @ _SIGNS
    scores = np.concatenate([straight, turned, -straight[:, :1]], axis=1)
    alike = np.zeros(len(first), dtype=np.bool_)
    near = np.flatnonzero(scores.max(axis=1) >= MIN_CANDIDATE)
    if len(near):
        change = scores[near].argmax(axis=1)
        alike[near] = _same(thumbnails[first[near]], thumbnails[second[near]], change)
    return alike


def _same(
    first: NDArray[np.uint8], second: NDArray[np.uint8], change: Indices
) -> NDArray[np.bool_]:
    """Compare thumbnails [P, 32, 32], of which the second ones are changed back."""
    a, b = _equalised(first), _changed(_equalised(second), change)
    # Where one image is saturated, both are clipped, so that they lose the same pixels.
    low = 2 * np.maximum(a.min(axis=(1, 2)), b.min(axis=(1, 2)))[:, None, None]
    high = 2 * np.minimum(a.max(axis=(1, 2)), b.max(axis=(1, 2)))[:, None, None] - 1
    similarity = (_details(a.clip(low, high)) * _details(b.clip(low, high))).sum(axis=(1, 2))
    flat = np.minimum(_flat_share(first), _flat_share(second))
    enough = similarity >= np.where(flat > FLAT, MIN_FLAT_SIMILARITY, MIN_SIMILARITY)
    return np.asarray(enough & (low < high)[:, 0, 0], dtype=np.bool_)


def _changed(ranks: Levels, change: Indices) -> Levels:
    """Flip, transpose or invert each of [P, 28, 28] as its column of the scores says."""
    found = ranks.copy()
    quarter = (change >= 4) & (change != _INVERTED)
    found[quarter] = found[quarter].transpose(0, 2, 1)
    mirrored, upside_down = change % 2 == 1, change % 4 >= 2
    found[mirrored] = found[mirrored][:, :, ::-1]
    found[upside_down] = found[upside_down][:, ::-1]
    found[change == _INVERTED] = 1 - found[change == _INVERTED]
    return found


def _histograms(inner: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[P, 256] pixels per level of [P, pixels]."""
    places = inner + 256 * np.arange(len(inner))[:, None]
    return np.bincount(places.ravel(), minlength=256 * len(inner)).reshape(-1, 256)


def _inner(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint8]:
    kept = slice(MARGIN, THUMBNAIL - MARGIN)
    return thumbnails[:, kept, kept].reshape(len(thumbnails), -1)


def _flat_share(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[P] share of pixels that have the most common level."""
    return np.asarray(_histograms(_inner(thumbnails)).max(axis=1) / INNER**2)


def _equalised(thumbnails: NDArray[np.uint8]) -> Levels:
    """[P, 28, 28] mean ranks of the pixels of [P, 32, 32] within its inner part, in 0..1."""
    inner = _inner(thumbnails)
    counts = _histograms(inner)
    ranks = ((counts.cumsum(axis=1) - counts / 2) / INNER**2).astype(np.float32)
    return np.take_along_axis(ranks, inner.astype(np.intp), axis=1).reshape(-1, INNER, INNER)


def _details(ranks: Levels) -> Levels:
    """[P, 16, 16] unit descriptions of equalised images [P, 28, 28]; 0 where all are equal."""
    mean = ranks @ _WINDOW @ _WINDOW / _WINDOW.sum() ** 2
    weighted = (ranks - mean[:, None, None]) * np.outer(_WINDOW, _WINDOW)
    coefficients = _COSINES @ weighted @ _COSINES.T * _FREQUENCY
    coefficients = np.sign(coefficients) * np.sqrt(np.abs(coefficients))
    norm = np.linalg.norm(coefficients, axis=(1, 2), keepdims=True)
    varied = ranks.max(axis=(1, 2), keepdims=True) > ranks.min(axis=(1, 2), keepdims=True)
    return np.asarray(coefficients / np.maximum(norm, 1e-6) * varied, dtype=np.float32)


def _keys(descriptions: Levels) -> Iterator[Indices]:
    """Yield `TABLES` keys [R]: cross-polytope hashes that flips, turns and inversion do not change.

    Flips and inversion multiply all coefficients with even or odd row and column numbers by one
    sign, which the magnitude ignores. A quarter turn transposes them: it exchanges even-odd and
    odd-even ones, which are sorted, and leaves the symmetric part of the others.
    """
    even, odd = slice(0, None, 2), slice(1, None, 2)

    def part(rows: slice, columns: slice, *, transposed: bool = False) -> Levels:
        found = descriptions[:, rows, columns]
        return found.transpose(0, 2, 1) if transposed else found

    quarters = [
        part(even, even) + part(even, even, transposed=True),
        part(odd, odd) + part(odd, odd, transposed=True),
        part(even, odd),
        part(odd, even, transposed=True),
    ]
    flat = [quarter.reshape(len(descriptions), (FREQUENCIES // 2) ** 2) for quarter in quarters]
    random = np.random.default_rng(0)
    for _ in range(TABLES):
        directions = random.standard_normal((3, flat[0].shape[1], DIRECTIONS), dtype=np.float32)
        largest = [
            np.abs(quarter @ directions[min(number, 2)]).argmax(axis=1)
            for number, quarter in enumerate(flat)
        ]
        pair = np.sort(np.stack(largest[2:]), axis=0)
        key = largest[0]
        for digit in (largest[1], pair[0], pair[1]):
            key = key * DIRECTIONS + digit
        yield key.astype(np.int64)
