"""Every classification metric, one row each; nothing else in the package lists them.

From a row follow the column `val_<name>` of histories, the score in `cv_summary.json` and its
schema, its bootstrap interval, `compare --metric <name>`, the columns of leaderboards and reports,
and whether `early_stopping_monitor` accepts it.

This module imports neither numpy nor torch, so that reading a config stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from clip_pkg.metrics.counts import Scored

TOP_K = 3
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ClassMean:
    """Computes the mean over classes of a score in `Scored.by_class`.

    by_support: weight each class by its number of samples.
    """

    score: str
    by_support: bool = False

    def __call__(self, scored: Scored) -> Any:
        return scored.macro(self.score, by_support=self.by_support)


@dataclass(frozen=True)
class Metric:
    """One metric.

    name: key in histories, summaries and `--metric`.
    title: as in a sentence, "balanced accuracy".
    description: what the score is, for the schema of `cv_summary.json`.
    compute: from predictions, in units of `bounds`. A `ClassMean` has an interval made of those of
        the classes, any other metric one of bootstrap percentiles (`results/intervals.py`).
    unit: `percent` values are multiplied by 100 wherever they are stored or shown.
    bounds: smallest and largest value as computed; None for no bound.
    lower_is_better: whether a smaller value is better.
    is_monitor: whether `early_stopping_monitor` accepts `val_<name>`.
    headline: position among the columns that leaderboards and reports always show; None: they show
        it only where configs are ranked by it.
    is_resampled: whether a bootstrap resample has this score; without it there are no intervals.
    always_defined: whether every set of predictions has a value.
    short_heading: column heading where there is little room.
    """

    name: str
    title: str
    description: str
    compute: Callable[[Scored], Any]
    unit: Literal["percent", "fraction", "nats"] = "fraction"
    bounds: tuple[float | None, float | None] = (0, 1)
    lower_is_better: bool = False
    is_monitor: bool = False
    headline: int | None = None
    is_resampled: bool = True
    always_defined: bool = False
    short_heading: str = ""

    @property
    def factor(self) -> int:
        """What a computed value is multiplied by to be stored or shown."""
        return 100 if self.unit == "percent" else 1

    @property
    def digits(self) -> int:
        """Decimal places in tables."""
        return 2 if self.unit == "percent" else 3

    @property
    def unit_sign(self) -> str:
        """`%` or nothing."""
        return "%" if self.unit == "percent" else ""

    @property
    def heading(self) -> str:
        """Title as a column heading, without its unit: `Balanced accuracy`, `mAP`."""
        return self.title if self.title == "mAP" else self.title[:1].upper() + self.title[1:]

    def shown(self, value: float) -> str:
        """Stored value with the digits of its unit: `92.13`, `0.921`."""
        return f"{value:.{self.digits}f}"


_ROWS = (
    Metric(
        "acc",
        "accuracy",
        "Share of images whose most probable class is theirs.",
        lambda scored: scored.accuracy(),
        unit="percent",
        is_monitor=True,
        headline=1,
        always_defined=True,
        short_heading="Acc",
    ),
    Metric(
        "balanced_acc",
        "balanced accuracy",
        "Mean recall over classes with images.",
        ClassMean("recall"),
        unit="percent",
        is_monitor=True,
        headline=2,
        short_heading="Bal. acc",
    ),
    Metric(
        "mAP",
        "mAP",
        "Mean over classes of average precision from the probabilities.",
        ClassMean("average_precision"),
        unit="percent",
        is_monitor=True,
        headline=4,
    ),
    Metric(
        "precision",
        "macro precision",
        "Mean precision over classes (macro).",
        ClassMean("precision"),
        is_monitor=True,
    ),
    Metric(
        "recall",
        "macro recall",
        "Mean recall over classes (macro).",
        ClassMean("recall"),
        is_monitor=True,
    ),
    Metric(
        "f1",
        "macro F1",
        "Mean F1 over classes (macro).",
        ClassMean("f1"),
        is_monitor=True,
        headline=3,
    ),
    Metric(
        "auroc",
        "AUROC",
        "Mean over classes of the area under the ROC curve, one class against the rest.",
        ClassMean("auroc"),
        is_monitor=True,
        headline=5,
    ),
    Metric(
        "specificity",
        "macro specificity",
        "Mean specificity over classes (macro).",
        ClassMean("specificity"),
    ),
    Metric(
        "precision_weighted",
        "weighted precision",
        "Precision weighted by support.",
        ClassMean("precision", by_support=True),
    ),
    Metric(
        "recall_weighted",
        "weighted recall",
        "Recall weighted by support.",
        ClassMean("recall", by_support=True),
    ),
    Metric(
        "f1_weighted",
        "weighted F1",
        "F1 weighted by support.",
        ClassMean("f1", by_support=True),
    ),
    Metric(
        "mcc",
        "Matthews correlation",
        "Matthews correlation of several classes (R_K).",
        lambda scored: scored.matthews_correlation(),
        bounds=(-1, 1),
        is_monitor=True,
    ),
    Metric(
        "kappa",
        "Cohen's kappa",
        "Cohen's kappa, unweighted.",
        lambda scored: scored.cohen_kappa(),
        bounds=(-1, 1),
        is_monitor=True,
    ),
    Metric(
        "top_k",
        f"top-{TOP_K} accuracy",
        "Share of images whose class is among the `top_k_is` most probable; null where that is all "
        "of them.",
        lambda scored: scored.top_k_accuracy(),
    ),
    Metric(
        "log_loss",
        "log loss",
        "Mean −log of the true class's probability, in nats.",
        lambda scored: scored.log_loss(),
        unit="nats",
        bounds=(0, None),
        lower_is_better=True,
        is_monitor=True,
        always_defined=True,
    ),
    Metric(
        "brier",
        "Brier score",
        "Mean over images of the squared error summed over classes, 0 to 2.",
        lambda scored: scored.brier_score(),
        bounds=(0, 2),
        lower_is_better=True,
        is_monitor=True,
        always_defined=True,
    ),
    Metric(
        "ece",
        "expected calibration error",
        f"Expected calibration error over {CALIBRATION_BINS} equally wide bins.",
        lambda scored: scored.calibration_error(),
        lower_is_better=True,
        is_monitor=True,
        # Repeated samples make every bin look less calibrated than it is.
        is_resampled=False,
        always_defined=True,
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType({row.name: row for row in _ROWS})
HEADLINE_METRICS = tuple(
    sorted((row for row in _ROWS if row.headline), key=lambda row: row.headline or 0)
)
MONITORS = ("val_loss", *(f"val_{row.name}" for row in _ROWS if row.is_monitor))
if TYPE_CHECKING:
    Monitor: TypeAlias = str
else:
    Monitor = Literal[MONITORS]


def lower_is_better(monitor: str) -> bool:
    """Whether a smaller value of a history's column, one of `MONITORS`, is better."""
    return monitor == "val_loss" or METRICS[monitor.removeprefix("val_")].lower_is_better
