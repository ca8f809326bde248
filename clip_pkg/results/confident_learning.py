"""Confident learning: images whose label is probably wrong, from out-of-fold probabilities.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
Journal of Artificial Intelligence Research 70, sections 3.1 and 3.2.

Legend: N images, C classes; labels and classes are positions 0 … C − 1.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

NO_CLASS = -1
# A mean of equal probabilities may be larger than they are, depending on the order of the sum.
ROUNDING = 1e-9


def class_thresholds(probabilities: Floats, labels: Indices) -> Floats:
    """[C] mean probability of each class over the images with that label (equation 2).

    Infinite for a class without images, so that no image counts as one of it.
    """
    n_classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=n_classes)
    sums = np.bincount(labels, weights=own, minlength=n_classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confident_classes(probabilities: Floats, thresholds: Floats) -> Indices:
    """[N] the most probable class among those that reach their threshold (equation 1).

    `NO_CLASS` where none does.
    """
    reached = probabilities >= thresholds - ROUNDING
    chosen = np.where(reached, probabilities, -1.0).argmax(axis=1)
    return np.where(reached.any(axis=1), chosen, NO_CLASS).astype(np.int64)


def confident_joint(labels: Indices, confident: Indices, n_classes: int) -> Indices:
    """[C, C] number of images with a label (row) that are confidently of a class (column).

    Images without a confident class are not counted.
    """
    counted = confident != NO_CLASS
    joint = np.zeros((n_classes, n_classes), dtype=np.int64)
    np.add.at(joint, (labels[counted], confident[counted]), 1)
    return joint


def relative_self_confidence(probabilities: Floats, labels: Indices) -> Floats:
    """[N] probability of the label ÷ the threshold of its class: 1 is the mean of the class.

    The paper ranks by self-confidence, the probability alone. That puts every image of a rare or
    hard class first, because a model is never sure of these.
    """
    own = probabilities[np.arange(len(labels)), labels]
    usual = class_thresholds(probabilities, labels)[labels]
    return np.divide(own, usual, out=np.zeros_like(own), where=usual > 0)


def label_issues(probabilities: Floats, labels: Indices) -> Indices:
    """[N] the class that an image is confidently of, instead of its label; else `NO_CLASS`.

    These are the images off the diagonal of the confident joint, except those whose label is more
    probable than that class. The paper counts them, too: the threshold of a class that is rare or
    never predicted is so low that an image reaches it by chance.
    """
    confident = confident_classes(probabilities, class_thresholds(probabilities, labels))
    rows = np.arange(len(labels))
    is_issue = (
        (confident != NO_CLASS)
        & (confident != labels)
        & (probabilities[rows, confident] > probabilities[rows, labels])
    )
    return np.where(is_issue, confident, NO_CLASS)
