"""All scores of a single-label classifier at once.

Legend: N samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_pkg.metrics import calibration, confusion, ranking

TOP_K = 3
SCORES = (
    "acc",
    "balanced_acc",
    "mAP",
    "precision",
    "recall",
    "f1",
    "auroc",
    "specificity",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "mcc",
    "kappa",
    "top_k",
    "log_loss",
    "brier",
    "ece",
)


@dataclass(frozen=True)
class ClassScores:
    """One class against the rest; fractions in [0, 1], None where a score is undefined.

    support: samples of the class.
    predicted: samples predicted as the class.
    precision: None when the class is never predicted or has no samples.
    recall, f1: None when the class has no samples.
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
    """What one set of predictions is worth; fractions in [0, 1], None where undefined.

    scores: by the names of the history's columns (there with `val_` in front):
        acc: share of samples whose most probable class is theirs.
        balanced_acc: mean recall over the classes that have samples.
        mAP: mean over classes of average precision from the probabilities.
        precision, recall, f1, specificity, auroc: macro averages of the one-vs-rest scores.
        precision_weighted, recall_weighted, f1_weighted: the same, weighted by support.
        mcc: Matthews correlation in [−1, 1].
        kappa: Cohen's kappa, at most 1.
        top_k: share of samples whose class is among the `k` most probable; None when k ≥ C.
        log_loss: mean −log p of the true class, ≥ 0, in nats.
        brier: mean Σ_c (p_c − [y = c])², in [0, 2].
        ece: expected calibration error over 15 equally wide bins of the largest probability.
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

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values: null for undefined, never NaN."""
        return {
            **self.scores,
            "n": self.n,
            "k": self.k,
            "calibration_bins": calibration.CALIBRATION_BINS,
            "defined_classes": dict(self.defined_classes),
            "per_class": [asdict(row) for row in self.per_class],
            "confusion_matrix": self.confusion.tolist(),
        }


def classification_metrics(
    probabilities: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]], *, k: int = TOP_K
) -> ClassificationMetrics:
    """Compute every score of `ClassificationMetrics`.

    The prediction is the most probable class, the first of them where several are equal.

    Args:
        probabilities: [N, C], each row a distribution (its sum within 0.001 of 1); N and C ≥ 1.
        targets: [N] class indices in 0…C−1; classes may be absent.
        k: of the top-k accuracy.

    Raises:
        ValueError: shapes disagree, nothing to score, or values out of their range.
    """
    p, y = _checked(probabilities, targets)
    n, classes = p.shape
    counts = confusion.confusion_matrix(y, p.argmax(axis=1), classes)
    average_precision, auroc = ranking.average_precision_and_auroc(p, y)
    by_class = {
        "precision": confusion.precision(counts),
        "recall": confusion.recall(counts),
        "f1": confusion.f1(counts),
        "specificity": confusion.specificity(counts),
        "average_precision": average_precision,
        "auroc": auroc,
    }
    support = counts.sum(axis=1)
    macro = {name: _mean(values) for name, values in by_class.items()}
    scores = {
        "acc": float(counts.trace() / n),
        "balanced_acc": macro["recall"],
        "mAP": macro["average_precision"],
        "precision": macro["precision"],
        "recall": macro["recall"],
        "f1": macro["f1"],
        "auroc": macro["auroc"],
        "specificity": macro["specificity"],
        "precision_weighted": _mean(by_class["precision"], support),
        "recall_weighted": _mean(by_class["recall"], support),
        "f1_weighted": _mean(by_class["f1"], support),
        "mcc": _or_none(confusion.matthews_correlation(counts)),
        "kappa": _or_none(confusion.cohen_kappa(counts)),
        "top_k": ranking.top_k_accuracy(p, y, k),
        "log_loss": calibration.log_loss(p, y),
        "brier": calibration.brier_score(p, y),
        "ece": calibration.expected_calibration_error(p, y),
    }
    defined = {name: int((~np.isnan(values)).sum()) for name, values in by_class.items()}
    defined["mAP"] = defined.pop("average_precision")
    return ClassificationMetrics(
        scores=MappingProxyType(scores),
        defined_classes=MappingProxyType(defined),
        per_class=_rows(support, counts.sum(axis=0), by_class),
        confusion=counts,
        n=n,
        k=k,
    )


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


def _mean(values: NDArray[np.float64], weights: NDArray[np.int64] | None = None) -> float | None:
    """Mean over the defined values; None when there is none."""
    defined = ~np.isnan(values)
    if not defined.any():
        return None
    return float(np.average(values[defined], weights=None if weights is None else weights[defined]))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _rows(
    support: NDArray[np.int64],
    predicted: NDArray[np.int64],
    by_class: Mapping[str, NDArray[np.float64]],
) -> tuple[ClassScores, ...]:
    columns = {name: map(_or_none, values.tolist()) for name, values in by_class.items()}
    rows = zip(support.tolist(), predicted.tolist(), *columns.values(), strict=True)
    return tuple(
        ClassScores(**dict(zip(("support", "predicted", *columns), row, strict=True)))
        for row in rows
    )


PERCENT = frozenset({"acc", "balanced_acc", "mAP"})


def history_scores(metrics: ClassificationMetrics) -> dict[str, float | None]:
    """Return the scores as histories and summaries hold them; those in `PERCENT` times 100."""
    return {
        name: value if value is None or name not in PERCENT else 100 * value
        for name, value in metrics.scores.items()
    }
