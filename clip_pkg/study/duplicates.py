"""Copies among the images: identical, re-encoded, resized, slightly cropped, or altered.

A validation image with a copy among the training images is a leak, so copies share a fold.

Exact copies have the same bytes or the same decoded pixels. Near copies are found on 32 × 32
luminance thumbnails with zero mean: two are alike if their correlation is at least
`MIN_CORRELATION` and their mean difference, at equal contrast, at most `MAX_DIFFERENCE` levels.
Measured: JPEG copies down to quality 30, copies at half size and crops by one pixel of 331 px
X-rays differ by at most 1.8 levels. Among 206 hip X-rays in one standard view, the rule finds four
pairs, each of them two crops of one X-ray (3.7 to 5.5 levels), and nothing else. It finds one pair
among 1,797 handwritten digits of 8 × 8 px and none among 10,000 natural images of 32 × 32 px.

Copies come in small clusters. A large cluster of similar images usually has another reason (a fixed
camera, frames of a video): it is reported, and not linked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from clip_pkg.study.altered_copies import are_altered_copies, candidates, describe
from clip_pkg.study.inspection import THUMBNAIL, Inspection

MIN_CORRELATION = 0.97
MAX_DIFFERENCE = 6.0  # levels of 0..255
MAX_COPIES = 10  # larger clusters are similar scenes, not copies
MAX_SEARCHED = 300_000  # images; all pairs are compared, which takes too long for more
MIN_CONTRAST = 0.5  # standard deviation in levels; below, correlation is meaningless
COARSE = 8  # width and height of the averaged thumbnails that exclude most pairs
TILE = 2_048  # images per block of the pairwise comparison
CHECKED_PAIRS = 4_096

Indices: TypeAlias = NDArray[np.int64]
Clusters: TypeAlias = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Duplicates:
    """Clusters of image indices, each sorted, in the order of their first member.

    Args:
        exact: Same bytes or same pixels.
        near: Linked near copies; a cluster may contain exact ones.
        look_alikes: Similar, but too many to be copies; not linked.
        linked: `exact` and `near` merged: clusters that must share a fold.
        searched: Whether near copies were searched for.
    """

    exact: Clusters
    near: Clusters
    look_alikes: Clusters
    linked: Clusters
    searched: bool


def join_sets(sets: Indices, first: Indices, second: Indices) -> Indices:
    """Join the sets of `first` and `second` [P], pair by pair.

    `sets` [N] and the result hold the set of each of N members, named by its smallest member.
    """
    # Imported late: validating a config does not need it.
    from scipy.sparse import coo_array  # noqa: PLC0415
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    edges = (np.ones(len(first)), (sets[first], sets[second]))
    graph = coo_array(edges, shape=(len(sets), len(sets)))
    _, components = connected_components(graph, directed=False)
    _, smallest, inverse = np.unique(components[sets], return_index=True, return_inverse=True)
    return np.asarray(smallest[inverse], dtype=np.int64)


def linked_sets(count: int, clusters: Iterable[Sequence[int]]) -> Indices:
    """[count] set of each member, see `join_sets`; clusters that share a member are one set."""
    pairs = [(cluster[0], other) for cluster in clusters for other in cluster[1:]]
    return join_sets(np.arange(count), *np.transpose(pairs)) if pairs else np.arange(count)


def equal_members(keys: Iterable[Hashable]) -> Clusters:
    """Clusters of at least two indices with equal keys."""
    places: dict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        places[key].append(index)
    return tuple(tuple(cluster) for cluster in places.values() if len(cluster) > 1)


def merge_clusters(count: int, *groups: Clusters) -> Clusters:
    """Join clusters that share a member."""
    return equal_members(linked_sets(count, chain(*groups)).tolist())


def find_duplicates(inspections: Sequence[Inspection], labels: Indices) -> Duplicates:
    """Find copies among N images with labels [N]."""
    count = len(inspections)
    exact = merge_clusters(
        count,
        equal_members(one.digest for one in inspections),
        equal_members(one.pixel_digest for one in inspections),
    )
    copies = {index for cluster in exact for index in cluster[1:]}
    distinct = np.array([index for index in range(count) if index not in copies], dtype=np.int64)
    searched = len(distinct) <= MAX_SEARCHED
    alike: Clusters = ()
    if searched and len(distinct):
        chosen = [inspections[index] for index in distinct]
        similar = similar_clusters(np.stack([one.thumbnail for one in chosen]))
        alike = tuple(
            tuple(int(distinct[member]) for member in cluster)
            for cluster in merge_clusters(len(chosen), similar, altered_clusters(chosen))
        )
    sizes = np.bincount(labels)
    # Copies, not similar scenes: few images, at most half of any class.
    near = tuple(
        cluster
        for cluster in alike
        if len(cluster) <= MAX_COPIES
        and (2 * np.bincount(labels[list(cluster)], minlength=len(sizes)) <= sizes).all()
    )
    linked = merge_clusters(count, exact, near)
    unlinked, same = set(alike) - set(near), set(exact)
    return Duplicates(
        exact=exact,
        near=tuple(cluster for cluster in linked if cluster not in same),
        look_alikes=tuple(cluster for cluster in alike if cluster in unlinked),
        linked=linked,
        searched=searched,
    )


def similar_clusters(thumbnails: NDArray[np.uint8]) -> Clusters:
    """Clusters of thumbnails [N, 32, 32] that are alike, directly or through others."""
    flat = thumbnails.reshape(len(thumbnails), -1)

    def match(first: Indices, second: Indices) -> NDArray[np.bool_]:
        return are_alike(flat[first], flat[second])

    return _joined(np.arange(len(flat)), _candidates(flat), match)


def altered_clusters(inspections: Sequence[Inspection]) -> Clusters:
    """Clusters of images that are alike after a change, see `altered_copies`."""
    thumbnails, images = [], []
    for index, one in enumerate(inspections):
        if min(one.width, one.height) >= THUMBNAIL:
            views = [view for view in (one.thumbnail, one.unframed) if view is not None]
            thumbnails += views
            images += [index] * len(views)
    if not thumbnails:
        return ()
    stacked = np.stack(thumbnails)
    descriptions = describe(stacked)

    def match(first: Indices, second: Indices) -> NDArray[np.bool_]:
        return are_altered_copies(stacked, descriptions, first, second)

    return _joined(np.array(images), candidates(descriptions), match)


def _joined(
    members: Indices,
    candidates: Iterable[Indices],
    match: Callable[[Indices, Indices], NDArray[np.bool_]],
) -> Clusters:
    """Clusters of members that match; candidates [2, P] are pairs of places in `members`."""
    sets = np.arange(members.max(initial=-1) + 1)
    for pairs in candidates:
        for start in range(0, pairs.shape[1], CHECKED_PAIRS):
            first, second = pairs[:, start : start + CHECKED_PAIRS]
            apart = sets[members[first]] != sets[members[second]]  # joined ones need no comparison
            first, second = first[apart], second[apart]
            found = match(first, second)
            if found.any():
                sets = join_sets(sets, members[first[found]], members[second[found]])
    return equal_members(sets.tolist())


def are_alike(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Compare P pairs of flat thumbnails [P, 1024]; True where both criteria hold."""
    (a, spread_a), (b, spread_b) = _standardised(first), _standardised(second)
    correlation = (a * b).mean(axis=1)
    difference = np.abs(a - b).mean(axis=1) * np.maximum(spread_a, spread_b)
    contrast = np.minimum(spread_a, spread_b) >= MIN_CONTRAST
    alike = (correlation >= MIN_CORRELATION) & (difference <= MAX_DIFFERENCE) & contrast
    return np.asarray(alike, dtype=np.bool_)


def _standardised(flat: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    levels = flat.astype(np.float64)
    levels -= levels.mean(axis=1, keepdims=True)
    spread = levels.std(axis=1)
    return levels / np.maximum(spread, MIN_CONTRAST)[:, None], spread


def _candidates(flat: NDArray[np.uint8]) -> Iterator[Indices]:
    """Yield pairs [2, P] that may be alike, first < second; includes every pair that is alike.

    Averaging blocks never increases the distance of two thumbnails. Where the averaged ones are
    farther apart than `MIN_CORRELATION` allows, so are the full ones; one matrix product shows it.
    """
    coarse = _coarse(flat)
    half = (coarse * coarse).sum(axis=1, keepdims=True) / 2
    half[half == 0] = np.inf  # no contrast: never close
    one = np.ones_like(half)
    # One product for a·b − |a|²/2 − |b|²/2 = −|a − b|²/2, which is at least r − 1 for unit vectors.
    left = np.concatenate([coarse, -half, -one], axis=1)
    right = np.concatenate([coarse, one, half], axis=1)
    least = MIN_CORRELATION - 1 - 1e-4  # the last term is for float32
    for row in range(0, len(flat), TILE):
        for column in range(row, len(flat), TILE):
            closeness = left[row : row + TILE] @ right[column : column + TILE].T
            if closeness.max() < least:  # the usual case, and faster than a search for pairs
                continue
            pairs = np.stack(np.nonzero(closeness >= least)) + np.array([[row], [column]])
            pairs = pairs[:, pairs[0] < pairs[1]]
            if pairs.size:
                yield pairs


def _coarse(flat: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unit thumbnails averaged to 8 × 8, scaled so that distances never grow: [N, 64]."""
    block = THUMBNAIL // COARSE
    coarse = np.zeros((len(flat), COARSE * COARSE), dtype=np.float32)
    for start in range(0, len(flat), CHECKED_PAIRS):
        rows = slice(start, start + CHECKED_PAIRS)
        standard, spread = _standardised(flat[rows])
        unit = standard / THUMBNAIL  # the norm of 32 × 32 values of unit variance
        blocks = unit.reshape(-1, COARSE, block, COARSE, block).mean(axis=(2, 4)) * block
        coarse[rows] = blocks.reshape(len(unit), -1) * (spread >= MIN_CONTRAST)[:, None]
    return coarse
