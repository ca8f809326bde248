"""Weights of classes from their numbers of training images, for losses and the sampler.

Legend: C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clip_pkg.config.loss_blocks import WeightMethod

EFFECTIVE_NUMBER_BETA = 0.9999  # Cui et al.'s choice for their long-tailed sets


def class_weights(
    counts: ArrayLike, method: WeightMethod, smooth: float = 1.0
) -> NDArray[np.float64]:
    """Weight of each class, [C] ≥ 0 and finite, from its number of training images.

    With n_c images of class c, N = Σ n_c and s = `smooth` ≥ 0:

    - `inverse_freq`: w_c = N / (C·(n_c + s))
    - `inverse_sqrt`: w_c = √(N / (C·(n_c + s)))
    - `balanced`: w_c = N / (C·n_c), scikit-learn's "balanced"; without `smooth`
    - `effective_number`: w_c ∝ (1 − β) / (1 − β^(n_c + s)), β = 0.9999, scaled to mean 1 over the
      classes that have images (Cui et al. 2019, "Class-balanced loss based on effective number of
      samples", CVPR, equations 2 and 4; the smoothing is not theirs)

    If a denominator is 0 (a class without images and no smoothing), the weight is 0.
    """
    n = np.asarray(counts, dtype=np.float64)
    smoothed = n if method == "balanced" else n + smooth
    weights: NDArray[np.float64]
    if method == "effective_number":
        # 1 − β^n without the cancellation of 1 − (something near 1)
        size = np.expm1(smoothed * np.log(EFFECTIVE_NUMBER_BETA)) / (EFFECTIVE_NUMBER_BETA - 1)
        weights = _reciprocal(size)
        present = weights[n > 0]
        return weights / present.mean() if present.size else weights
    weights = _reciprocal(smoothed) * (n.sum() / len(n))
    return np.sqrt(weights) if method == "inverse_sqrt" else weights


def _reciprocal(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / values, and 0 where a value is 0."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)
