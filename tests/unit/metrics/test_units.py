from __future__ import annotations

import numpy as np

from clip_pkg.metrics.classification import classification_metrics, history_scores
from clip_pkg.metrics.table import METRICS


def test_only_the_named_scores_are_in_percent() -> None:
    metrics = classification_metrics(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    stored = history_scores(metrics)
    assert stored["acc"] == stored["balanced_acc"] == 50.0
    assert stored["mAP"] == 100.0
    for name, value in metrics.scores.items():
        if METRICS[name].unit != "percent":
            assert stored[name] == value


def test_undefined_stays_undefined() -> None:
    stored = history_scores(classification_metrics(np.array([[0.9, 0.1]]), np.array([0])))
    assert stored["mAP"] is None
    assert stored["acc"] == 100.0
