from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from clip_pkg.metrics.calibration import expected_calibration_error
from clip_pkg.metrics.classification import (
    ClassificationMetrics,
    classification_metrics,
    history_scores,
)
from clip_pkg.metrics.ranking import average_precision_and_auroc, top_k_accuracy
from clip_pkg.metrics.table import METRICS

Arrays = tuple[NDArray[np.float64], NDArray[np.int64]]


@st.composite
def predictions(draw: st.DrawFn) -> Arrays:
    """Random and degenerate cases: ties, one class present, one class predicted, one sample."""
    classes = draw(st.sampled_from([2, 2, 3, 5, 9, 100]))
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["smooth", "tied", "certain", "one_predicted", "uniform"]))
    if kind == "smooth":
        p = rng.dirichlet(np.full(classes, 0.5), n)
    elif kind == "tied":
        p = rng.integers(1, 4, (n, classes)).astype(float)
    elif kind == "certain":
        p = np.eye(classes)[rng.integers(0, classes, n)]
    elif kind == "one_predicted":
        p = rng.dirichlet(np.ones(classes), n)
        p[:, 0] += 2
    else:
        p = np.ones((n, classes))
    p = p / p.sum(axis=1, keepdims=True)
    present = draw(st.integers(1, classes))
    y = rng.choice(rng.permutation(classes)[:present], n)
    return p, y.astype(np.int64)


def equal(ours: float | None, reference: float) -> bool:
    return ours is not None and math.isclose(ours, reference, rel_tol=1e-12, abs_tol=1e-12)


def quiet(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


@settings(max_examples=80, deadline=None)
@given(predictions())
def test_ranking_scores_equal_scikit_learns(case: Arrays) -> None:
    p, y = case
    average_precision, auroc = average_precision_and_auroc(p, y)
    for c in range(p.shape[1]):
        positive = y == c
        if positive.all() or not positive.any():
            assert np.isnan(average_precision[c])
            assert np.isnan(auroc[c])
        else:
            assert equal(average_precision[c], sk.average_precision_score(positive, p[:, c]))
            assert equal(auroc[c], sk.roc_auc_score(positive, p[:, c]))


@settings(max_examples=80, deadline=None)
@given(predictions())
def test_scores_of_predicted_classes_equal_scikit_learns(case: Arrays) -> None:
    p, y = case
    predicted = p.argmax(axis=1)
    labels = list(range(p.shape[1]))
    m = classification_metrics(p, y)
    assert np.array_equal(m.confusion, sk.confusion_matrix(y, predicted, labels=labels))
    assert equal(m.scores["acc"], sk.accuracy_score(y, predicted))
    assert equal(m.scores["balanced_acc"], quiet(sk.balanced_accuracy_score, y, predicted))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        y, predicted, labels=labels, zero_division=0
    )
    for c, row in enumerate(m.per_class):
        assert row.support == support[c]
        assert row.predicted == (predicted == c).sum()
        if row.support == 0:
            assert row.recall is row.precision is row.f1 is None
            continue
        assert equal(row.recall, recall[c])
        assert equal(row.f1, f1[c])
        assert equal(row.precision, precision[c])
    present = support > 0
    assert equal(m.scores["f1"], f1[present].mean())
    assert equal(m.scores["precision"], precision[present].mean())
    assert equal(m.scores["f1_weighted"], (f1[present] * support[present]).sum() / len(y))
    assert equal(m.scores["recall_weighted"], sk.accuracy_score(y, predicted))
    one_side = len(set(y)) == 1 or len(set(predicted)) == 1
    if one_side:
        assert m.scores["mcc"] is None
    else:
        assert equal(m.scores["mcc"], sk.matthews_corrcoef(y, predicted))
    if len(set(y) | set(predicted)) == 1:
        assert m.scores["kappa"] is None
    else:
        assert equal(m.scores["kappa"], sk.cohen_kappa_score(y, predicted, labels=labels))


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_scores_of_probabilities_equal_their_definitions(case: Arrays) -> None:
    p, y = case
    n, classes = p.shape
    m = classification_metrics(p, y)
    assert equal(m.scores["log_loss"], quiet(sk.log_loss, y, p, labels=list(range(classes))))
    brier = sum(((p[i] - np.eye(classes)[y[i]]) ** 2).sum() for i in range(n)) / n
    assert equal(m.scores["brier"], brier)
    if classes > 3:
        in_order = np.argsort(-p, axis=1, kind="stable")
        assert m.scores["top_k"] == np.mean([y[i] in in_order[i, :3] for i in range(n)])
    else:
        assert m.scores["top_k"] is None
    assert top_k_accuracy(p, y, 1) == m.scores["acc"]


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_macro_averages_state_over_how_many_classes(case: Arrays) -> None:
    m = classification_metrics(*case)
    for name in ("precision", "recall", "f1", "specificity", "auroc", "mAP"):
        attribute = "average_precision" if name == "mAP" else name
        values = [getattr(row, attribute) for row in m.per_class]
        defined = [value for value in values if value is not None]
        assert m.defined_classes[name] == len(defined)
        if defined:
            assert equal(m.scores[name], float(np.mean(defined)))
        else:
            assert m.scores[name] is None
    weighted = [(r.precision, r.support) for r in m.per_class if r.precision is not None]
    if weighted:
        expected = sum(v * s for v, s in weighted) / sum(s for _, s in weighted)
        assert equal(m.scores["precision_weighted"], expected)
    else:
        assert m.scores["precision_weighted"] is None


@settings(max_examples=60, deadline=None)
@given(predictions(), st.integers(0, 2**32 - 1))
def test_scores_are_in_their_bounds_in_any_order_of_the_samples(case: Arrays, seed: int) -> None:
    p, y = case
    order = np.random.default_rng(seed).permutation(len(y))
    one, other = classification_metrics(p, y), classification_metrics(p[order], y[order])
    json.dumps([dict(one.scores), *map(asdict, one.per_class)], allow_nan=False)
    for name, value in one.scores.items():
        low, high = METRICS[name].bounds
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        twin = other.scores[name]
        assert value is None or low - 1e-12 <= value <= high + 1e-12, name
        assert twin is None if value is None else twin is not None and equal(value, twin), name


def naive_ece(p: NDArray[np.float64], y: NDArray[np.int64], bins: int) -> float:
    total = 0.0
    for b in range(bins):
        members = []
        for row, label in zip(p, y, strict=True):
            if b < row.max() * bins <= b + 1:
                members.append((row.max(), row.argmax() == label))
        if members:
            gap = np.mean([hit for _, hit in members]) - np.mean([c for c, _ in members])
            total += len(members) / len(y) * abs(gap)
    return total


@settings(max_examples=40, deadline=None)
@given(predictions(), st.sampled_from([1, 10, 15]))
def test_calibration_error_equals_a_loop_over_bins(case: Arrays, bins: int) -> None:
    p, y = case
    assert equal(expected_calibration_error(p, y, bins=bins), naive_ece(p, y, bins))


def metrics_of(rows: list[list[float]], targets: list[int]) -> ClassificationMetrics:
    return classification_metrics(np.array(rows), np.array(targets))


def test_a_perfect_classifier() -> None:
    m = metrics_of([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 1, 2])
    for name in ("acc", "balanced_acc", "mAP", "precision", "f1", "auroc", "mcc", "kappa"):
        assert m.scores[name] == 1.0, name
    for name in ("log_loss", "brier", "ece"):
        assert m.scores[name] == 0.0, name


def test_one_sample() -> None:
    m = metrics_of([[0.2, 0.5, 0.3]], [1])
    assert m.scores["acc"] == 1.0
    assert m.scores["mAP"] is m.scores["auroc"] is m.scores["mcc"] is m.scores["kappa"] is None
    assert [row.support for row in m.per_class] == [0, 1, 0]
    assert m.per_class[1].specificity is None
    assert m.defined_classes["mAP"] == 0


def test_only_the_named_scores_are_stored_in_percent() -> None:
    metrics = metrics_of([[0.9, 0.1], [0.6, 0.4]], [0, 1])
    stored = history_scores(metrics)
    assert stored["acc"] == stored["balanced_acc"] == 50.0
    assert stored["mAP"] == 100.0
    for name, value in metrics.scores.items():
        if METRICS[name].unit != "percent":
            assert stored[name] == value
    assert history_scores(metrics_of([[0.9, 0.1]], [0]))["mAP"] is None


def test_a_certain_mistake_has_a_finite_cost() -> None:
    m = metrics_of([[1, 0], [0, 1]], [1, 1])
    assert m.scores["log_loss"] == pytest.approx(-math.log(np.finfo(float).eps) / 2)
    assert m.scores["brier"] == 1.0


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        (np.ones((2, 2)) / 2, np.array([0]), "need probabilities"),
        (np.ones((0, 2)), np.zeros(0, dtype=int), "need probabilities"),
        (np.ones((1, 2)) / 2, np.array([2]), "targets must be integers"),
        (np.ones((1, 2)) / 2, np.array([-1]), "targets must be integers"),
        (np.ones((1, 2)) / 2, np.array([0.0]), "targets must be integers"),
        (np.array([[np.nan, 1.0]]), np.array([0]), "sum to 1"),
        (np.array([[1.5, -0.5]]), np.array([0]), "sum to 1"),
        (np.array([[0.7, 0.7]]), np.array([0]), "sum to 1"),
    ],
)
def test_arrays_that_cannot_be_scored_are_refused(p: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_metrics(p, y)
