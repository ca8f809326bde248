"""Confident learning against loops written from the paper, and on simulated wrong labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.results.confident_learning import (
    NO_CLASS,
    class_thresholds,
    confident_classes,
    confident_joint,
    label_issues,
    relative_self_confidence,
)


def drawn(seed: int, n: int, n_classes: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, C] and labels [n], of which some classes may have none."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, random.integers(1, n_classes + 1), n)
    logits = random.normal(size=(n, n_classes)) * sharpness
    logits[np.arange(n), labels] += sharpness
    scores = np.exp(logits)
    return scores / scores.sum(axis=1, keepdims=True), labels


SETS = st.builds(
    drawn,
    seed=st.integers(0, 10_000),
    n=st.integers(1, 60),
    n_classes=st.integers(2, 6),
    sharpness=st.sampled_from([0.0, 0.3, 1.5, 4.0]),
)


def joint_of_the_paper(p: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Equations 1 and 2 of Northcutt et al. 2021, image by image."""
    n_classes = p.shape[1]
    joint = [[0] * n_classes for _ in range(n_classes)]
    thresholds = []
    for j in range(n_classes):
        own = [p[x][j] for x in range(len(p)) if labels[x] == j]
        thresholds.append(sum(own) / len(own) if own else None)
    for x in range(len(p)):
        best = None
        for j, t in enumerate(thresholds):
            # equal up to rounding: the mean of n equal numbers need not be that number
            reached = t is not None and (p[x][j] > t or np.isclose(p[x][j], t, rtol=0, atol=1e-9))
            if reached and (best is None or p[x][j] > p[x][best]):
                best = j
        if best is not None:
            joint[labels[x]][best] += 1
    return joint


@given(SETS)
def test_the_joint_is_that_of_the_paper(found: tuple[np.ndarray, np.ndarray]) -> None:
    p, labels = found
    confident = confident_classes(p, class_thresholds(p, labels))
    joint = confident_joint(labels, confident, p.shape[1])
    assert joint.tolist() == joint_of_the_paper(p, labels)


@given(SETS, st.randoms(use_true_random=False))
def test_issues_do_not_depend_on_the_order_of_images_or_classes(
    found: tuple[np.ndarray, np.ndarray], random: object
) -> None:
    p, labels = found
    p = p + 1e-6 * np.arange(p.shape[1])  # no ties, which the first class wins
    issues, scores = label_issues(p, labels), relative_self_confidence(p, labels)
    generator = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    order, names = generator.permutation(len(p)), generator.permutation(p.shape[1])
    assert (label_issues(p[order], labels[order]) == issues[order]).all()
    new = np.argsort(names)  # class j is now at position new[j]
    moved = label_issues(p[:, names], new[labels])
    assert (moved == np.where(issues == NO_CLASS, NO_CLASS, new[issues])).all()
    assert relative_self_confidence(p[:, names], new[labels]) == pytest.approx(scores)


@given(SETS)
def test_an_issue_has_a_more_probable_class_than_its_label(
    found: tuple[np.ndarray, np.ndarray],
) -> None:
    p, labels = found
    issues = label_issues(p, labels)
    (rows,) = (issues != NO_CLASS).nonzero()
    assert (p[rows, issues[rows]] > p[rows, labels[rows]]).all()
    assert np.isin(issues[rows], labels).all()  # a class without images is never suggested


def test_a_class_that_is_never_predicted_is_not_suggested_by_chance() -> None:
    labels = np.array([0] * 6 + [1] * 6 + [2] * 2)
    p = np.tile([0.9, 0.08, 0.02], (14, 1))
    p[6:12] = [0.08, 0.9, 0.02]
    p[0] = [0.8, 0.17, 0.03]  # below the threshold of its class, above that of the third
    confident = confident_classes(p, class_thresholds(p, labels))
    assert confident[0] == 2  # as the paper has it
    assert label_issues(p, labels)[0] == NO_CLASS
    assert label_issues(p, labels)[12:].tolist() == [0, 0]


def test_without_any_confident_class_there_is_no_issue() -> None:
    p = np.array([[0.6, 0.4], [0.4, 0.6], [0.5, 0.5]])
    confident = confident_classes(p, np.array([0.9, 0.9]))
    assert confident.tolist() == [NO_CLASS] * 3
    assert confident_joint(np.array([0, 1, 1]), confident, 2).sum() == 0


def test_equal_probabilities_reach_their_mean() -> None:
    p = np.tile([0.1, 0.9], (3, 1))
    assert class_thresholds(p, np.zeros(3, dtype=np.int64))[0] != 0.1  # rounded
    joint = confident_joint(
        np.zeros(3, dtype=np.int64),
        confident_classes(p, class_thresholds(p, np.zeros(3, dtype=np.int64))),
        2,
    )
    assert joint.tolist() == [[3, 0], [0, 0]]


def test_scores_are_relative_to_the_class() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.7, 0.3, 0.0], [0.9, 0.1, 0.0], [0.7, 0.3, 0.0]])
    found = relative_self_confidence(p, np.array([0, 0, 1, 1]))
    assert found == pytest.approx([0.9 / 0.8, 0.7 / 0.8, 0.1 / 0.2, 0.3 / 0.2])
    assert relative_self_confidence(p, np.array([0, 0, 2, 2]))[2:].tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shares", [(1, 1, 1, 1), (12, 4, 2, 1)])
def test_flipped_labels_are_found(seed: int, shares: tuple[int, ...]) -> None:
    """A model of about 85 % accuracy, trained on unrelated labels; 5 % of these are flipped."""
    random = np.random.default_rng(seed)
    true = np.repeat(np.arange(4), 2000 * np.array(shares) // sum(shares))
    logits = 1.2 * random.normal(size=(len(true), 4))
    logits[np.arange(len(true)), true] += 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert 0.8 < (p.argmax(axis=1) == true).mean() < 0.95
    count = len(true) // 20
    flipped = random.choice(len(true), count, replace=False)
    labels = true.copy()
    labels[flipped] = (labels[flipped] + random.integers(1, 4, count)) % 4
    issues, scores = label_issues(p, labels), relative_self_confidence(p, labels)
    found = np.flatnonzero(issues != NO_CLASS)
    assert np.isin(flipped, found).mean() > 0.5  # by chance: the share of issues, below 0.1
    assert len(found) < 2 * count
    disputed = np.flatnonzero(p.argmax(axis=1) != labels)
    first = disputed[np.argsort(scores[disputed])][:count]
    assert np.isin(first, flipped).mean() > 0.6  # by chance: 0.05
    right = np.intersect1d(found, flipped)
    assert (issues[right] == true[right]).mean() > 0.8
