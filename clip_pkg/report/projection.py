"""Features [N, D] → points [N, 2] of a map."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 42
FEWEST_FOR_TSNE = 30  # images; of fewer, neighbourhoods say little
MOST_ON_A_MAP = 600  # images of a fold
PERPLEXITY = 30.0


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """N images of a fold on a map.

    points: [N, 2]. targets: [N] class positions. wrong: bool [N], answered wrongly. method: how the
    points were made. left_out: images of the fold that are not on the map.
    """

    fold: int
    points: NDArray[np.float64]
    targets: NDArray[np.int64]
    wrong: NDArray[np.bool_]
    method: str
    left_out: int


def on_the_map(count: int) -> NDArray[np.int64]:
    """Sorted positions of the images that are drawn: all, or a seeded sample."""
    if count <= MOST_ON_A_MAP:
        return np.arange(count)
    chosen = np.random.default_rng(SEED).choice(count, MOST_ON_A_MAP, replace=False)
    return np.sort(chosen)


def project(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], str]:
    """Points and the method: t-SNE, or PCA for few images.

    features: [N, D], compared by their cosines.
    """
    # Imported late: it takes a second, and a report without images does not need it.
    from sklearn.decomposition import PCA  # noqa: PLC0415
    from sklearn.manifold import TSNE  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.asarray(features, dtype=np.float64) / np.maximum(lengths, 1e-12)
    count, size = unit.shape
    if count < FEWEST_FOR_TSNE:
        points = PCA(min(2, count, size), random_state=SEED).fit_transform(unit)
        return np.pad(points, ((0, 0), (0, 2 - points.shape[1]))), "PCA"
    # Several threads would wait for each other most of the time: maps are small.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.filterwarnings("ignore", category=FutureWarning)
        method = TSNE(
            perplexity=min(PERPLEXITY, (count - 1) / 3), init="pca", random_state=SEED, n_jobs=1
        )
        return method.fit_transform(unit).astype(np.float64), "t-SNE"
