"""Arrays in, numbers out: what a classifier's probabilities are worth."""

from clip_pkg.metrics.classification import (
    ClassificationMetrics,
    ClassScores,
    classification_metrics,
)

__all__ = ["ClassScores", "ClassificationMetrics", "classification_metrics"]
