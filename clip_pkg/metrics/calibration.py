"""Scores of probabilities, and the temperature that calibrates them.

Legend: N samples, C classes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from clip_pkg.metrics.table import CALIBRATION_BINS

MIN_PROBABILITY = float(np.finfo(np.float64).eps)


def log_loss(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Mean −log of the true class's probability, in nats, ≥ 0."""
    return max(0.0, float(log_losses(probabilities, targets).mean()))


def log_losses(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """−log of each sample's true class's probability, [N].

    Probabilities below 2.2e-16 count as 2.2e-16, so one certain mistake costs 36 and not infinity.
    """
    own = np.take_along_axis(probabilities, targets[:, None], axis=1)[:, 0]
    losses: NDArray[np.float64] = -np.log(np.maximum(own, MIN_PROBABILITY))
    return losses


def brier_scores(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Each sample's Σ_c (p_c − [y = c])², [N], in [0, 2] for any C (Brier 1950)."""
    own = np.take_along_axis(probabilities, targets[:, None], axis=1)[:, 0]
    others = np.einsum("nc,nc->n", probabilities, probabilities) - own**2
    scores: NDArray[np.float64] = np.maximum(others + (1.0 - own) ** 2, 0.0)
    return scores


def expected_calibration_error(
    probabilities: NDArray[np.float64],
    targets: NDArray[np.int64],
    *,
    bins: int = CALIBRATION_BINS,
) -> float:
    """Σ_b |B_b|/N · |accuracy(B_b) − confidence(B_b)|, in [0, 1].

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3: the confidence is the
    largest probability, the bins ((b−1)/bins, b/bins] are equally wide.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    bin_of = confidence_bin(confidence, bins)
    gap = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(targets))


def confidence_bin(confidence: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Index of the bin ((b−1)/bins, b/bins] that holds each confidence in [0, 1]."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0


def fit_temperature(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """T from 0.01 to 100 with the smallest mean −log p of the true classes.

    probabilities: [N, C] of samples that the model was not trained on. targets: [N].
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415  slow, needed here only

    logits = _logits(probabilities)

    def loss(log_temperature: float) -> float:
        own = _log_softmax(logits / math.exp(log_temperature))
        return float(-np.take_along_axis(own, targets[:, None], axis=1).mean())

    # Convex in 1/T, so it has a single minimum in log T as well.
    found = minimize_scalar(
        loss,
        bounds=(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return math.exp(float(found.x))


def tempered(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities [N, C] at another temperature; rows sum to 1."""
    scaled: NDArray[np.float64] = np.exp(_log_softmax(_logits(probabilities) / temperature))
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits up to a constant per row; 0 counts as the smallest positive number."""
    logarithms: NDArray[np.float64] = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return logarithms


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    relative: NDArray[np.float64] = logits - logits.max(axis=1, keepdims=True)
    normaliser: NDArray[np.float64] = np.log(np.exp(relative).sum(axis=1, keepdims=True))
    return relative - normaliser
