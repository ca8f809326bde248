"""All scores of a single-label classifier at once.

Legend: N samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_pkg.metrics import calibration, ranking
from clip_pkg.metrics.counts import Scored, confusion_matrix
from clip_pkg.metrics.table import METRICS, TOP_K


@dataclass(frozen=True)
class ClassScores:
    """One class against the rest; fractions in [0, 1], None where a score is undefined.

    support: samples of the class.
    predicted: samples predicted as the class.
    precision: 0 when the class is never predicted.
    precision, recall, f1: None when the class has no samples.
    specificity: None when all samples are of the class.
    average_precision, auroc: None when the class has no samples, or all of them.
    """

    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    specificity: float | None
    average_precision: float | None
    auroc: float | None


@dataclass(frozen=True, eq=False)
class ClassificationMetrics:
    """Every metric of one set of predictions; None where undefined.

    scores: by the names of `METRICS`, as computed (percentages as fractions).
    defined_classes: over how many classes each macro average was taken; the others are None in
        `per_class` and left out of the average, never counted as 0.
    per_class: in the order of the classes.
    confusion: [C, C] counts; row: true class, column: predicted class.
    n: N.
    k: of `top_k`.
    """

    scores: Mapping[str, float | None]
    defined_classes: Mapping[str, int]
    per_class: tuple[ClassScores, ...]
    confusion: NDArray[np.int64]
    n: int
    k: int


def classification_metrics(
    probabilities: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]], *, k: int = TOP_K
) -> ClassificationMetrics:
    """Compute every metric of the table.

    The prediction is the most probable class, the first of them where several are equal.

    Args:
        probabilities: [N, C], each row a distribution (its sum within 0.001 of 1); N and C ≥ 1.
        targets: [N] class indices in 0…C−1; classes may be absent.
        k: of the top-k accuracy.

    Raises:
        ValueError: shapes disagree, there are no samples, or values are out of range.
    """
    p, y = _checked(probabilities, targets)
    counts = confusion_matrix(y, p.argmax(axis=1), p.shape[1])
    scored = _OneSet(p, y, counts, k)
    defined = {name: int((~np.isnan(values)).sum()) for name, values in scored.by_class.items()}
    defined["mAP"] = defined.pop("average_precision")
    columns = {
        "support": counts.sum(axis=1).tolist(),
        "predicted": counts.sum(axis=0).tolist(),
        **{name: map(_or_none, values.tolist()) for name, values in scored.by_class.items()},
    }
    rows = zip(*columns.values(), strict=True)
    return ClassificationMetrics(
        scores=MappingProxyType(
            {name: _or_none(float(metric.compute(scored))) for name, metric in METRICS.items()}
        ),
        defined_classes=MappingProxyType(defined),
        per_class=tuple(ClassScores(**dict(zip(columns, row, strict=True))) for row in rows),
        confusion=counts,
        n=len(y),
        k=k,
    )


def history_scores(metrics: ClassificationMetrics) -> dict[str, float | None]:
    """Return the scores in the units of histories and summaries: some are percentages."""
    return {
        name: None if value is None else METRICS[name].factor * value
        for name, value in metrics.scores.items()
    }


class _OneSet(Scored):
    """One set of predictions."""

    def __init__(
        self,
        probabilities: NDArray[np.float64],
        targets: NDArray[np.int64],
        counts: NDArray[np.int64],
        k: int,
    ) -> None:
        support, predicted, hits = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
        super().__init__(support.astype(float), predicted.astype(float), hits.astype(float))
        self._probabilities, self._targets, self._k = probabilities, targets, k
        average_precision, auroc = ranking.average_precision_and_auroc(probabilities, targets)
        self.by_class |= {"average_precision": average_precision, "auroc": auroc}

    def macro(self, score: str, *, by_support: bool = False) -> float:
        values = self.by_class[score]
        defined = ~np.isnan(values)
        if not defined.any():
            return math.nan
        weights = self._support[defined] if by_support else None
        return float(np.average(values[defined], weights=weights))

    def top_k_accuracy(self) -> float:
        accuracy = ranking.top_k_accuracy(self._probabilities, self._targets, self._k)
        return math.nan if accuracy is None else accuracy

    def log_loss(self) -> float:
        return calibration.log_loss(self._probabilities, self._targets)

    def brier_score(self) -> float:
        return float(calibration.brier_scores(self._probabilities, self._targets).mean())

    def calibration_error(self) -> float:
        return calibration.expected_calibration_error(self._probabilities, self._targets)


def _checked(
    probabilities: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    p = np.asarray(probabilities, dtype=np.float64)
    y = np.asarray(targets)
    if p.ndim != 2 or y.shape != p.shape[:1] or 0 in p.shape:
        raise ValueError(f"need probabilities [N, C] and targets [N], got {p.shape} and {y.shape}")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"targets must be integers in 0…{p.shape[1] - 1}")
    # Written so that NaN fails as well.
    if not (p.min() >= 0 and np.abs(p.sum(axis=1) - 1).max() <= 1e-3):
        raise ValueError("each row of probabilities must be finite, not negative, and sum to 1")
    return p, y.astype(np.int64)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
