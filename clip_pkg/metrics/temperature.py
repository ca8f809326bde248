"""Temperature scaling: one number that makes probabilities as bold as they are right.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2: p ∝ exp(z / T), T that
minimises the negative log-likelihood. Logarithms of probabilities serve as logits z, because
softmax does not see what all classes of a sample have in common. T changes no ranking.

Legend: N samples, C classes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 0.01, 100.0
TOLERANCE = 1e-9  # of log T


def fit_temperature(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """T from 0.01 to 100 with the smallest mean −log p of the true classes.

    probabilities: [N, C] of samples that the model was not trained on. targets: [N].
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415  only fitting waits for its import

    logits = _logits(probabilities)

    def loss(log_temperature: float) -> float:
        own = _log_softmax(logits / math.exp(log_temperature))
        return float(-np.take_along_axis(own, targets[:, None], axis=1).mean())

    # Convex in 1/T, so it has one valley in log T as well.
    found = minimize_scalar(
        loss,
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": TOLERANCE},
    )
    return math.exp(float(found.x))


def tempered(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities [N, C] at another temperature; rows sum to 1."""
    scaled: NDArray[np.float64] = np.exp(_log_softmax(_logits(probabilities) / temperature))
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits up to a constant per row; what is 0 counts as the smallest number above it."""
    logarithms: NDArray[np.float64] = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return logarithms


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    relative: NDArray[np.float64] = logits - logits.max(axis=1, keepdims=True)
    normaliser: NDArray[np.float64] = np.log(np.exp(relative).sum(axis=1, keepdims=True))
    return relative - normaliser
