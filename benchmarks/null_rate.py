"""How often tests between two equally good classifiers call them different, at the 5 % level.

    bash benchmarks/run.sh null_rate --write

Each repetition draws a data set of its own with two groups of features that tell equally much, and
cross-validates two nearest-centroid classifiers on the same folds, one per group, with or without
repeats. Neither is better, so every difference that a test finds is a false positive. As in
`compare`, McNemar's test is made on the first repeat, and the interval of the pooled difference is
that of all predictions, those of an image drawn together.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from benchmarks.results import measured_on, write_section
from clip_pkg.results.bootstrap import resample
from clip_pkg.results.comparison_records import Interval, Pooled
from clip_pkg.results.intervals import correlation, difference_interval, score_intervals
from clip_pkg.results.statistics import corrected_resampled_t_test, mcnemar_test

LEVEL = 0.05
FEATURES = 10  # of each classifier
RESAMPLES = 500
CORRECTED, PLAIN = "corrected resampled t-test", "plain paired t-test"
MCNEMAR, POOLED = "McNemar, mid-p", "interval of the pooled difference"
TESTS = (CORRECTED, PLAIN, MCNEMAR, POOLED)


@dataclass(frozen=True)
class World:
    """Where data sets come from: n images in equal classes, and how far apart classes lie."""

    n: int
    folds: int
    classes: int = 2
    distance: float = 0.5
    repeats: int = 1

    def __str__(self) -> str:
        times = f"{self.repeats} repeats of " if self.repeats > 1 else ""
        near = " that hardly differ" if self.distance < 0.5 else ""
        return f"{self.n} images in {self.classes} classes{near}, {times}{self.folds} folds"


WORLDS = (
    *(World(200, 5), World(200, 10), World(1000, 5, classes=4)),
    *(World(200, 5, repeats=4), World(200, 10, repeats=10)),
    World(100, 5, distance=0.2, repeats=10),
)


def centroid_answers(
    train: NDArray[np.float64], labels: NDArray[np.int64], test: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Class of the nearest centroid for each row of `test`."""
    centroids = np.stack([train[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    return ((test[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1).astype(np.int64)


def cross_validated(
    world: World, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[float]]:
    """Draw a data set and cross-validate both classifiers.

    Returns their answers [2, repeats, N], the labels [N], and the difference of their accuracies in
    each fold.
    """
    labels = np.arange(world.n) % world.classes
    features = generator.normal(size=(world.n, 2 * FEATURES))
    centres = generator.normal(size=(world.classes, FEATURES))
    centres *= world.distance / np.linalg.norm(centres, axis=1, keepdims=True)
    # The same centres for both, or one of them would be better in this data set's world.
    features += np.tile(centres, 2)[labels]
    answers = np.zeros((2, world.repeats, world.n), dtype=np.int64)
    differences = []
    seed = int(generator.integers(2**31 - world.repeats))
    for repeat in range(world.repeats):
        division = StratifiedKFold(world.folds, shuffle=True, random_state=seed + repeat)
        for train, test in division.split(features, labels):
            for which, group in enumerate((slice(0, FEATURES), slice(FEATURES, None))):
                answers[which, repeat, test] = centroid_answers(
                    features[train, group], labels[train], features[test, group]
                )
            right = (answers[:, repeat, test] == labels[test]).mean(axis=1)
            differences.append(float(right[0] - right[1]))
    return answers, labels, differences


def differs(world: World, generator: np.random.Generator) -> dict[str, bool]:
    """Which tests find a difference in a data set of its own."""
    answers, labels, differences = cross_validated(world, generator)
    tested = corrected_resampled_t_test(differences, test_to_train=1 / (world.folds - 1))
    correct = answers[:, 0] == labels
    interval = pooled_interval(world, answers, labels, int(generator.integers(2**31)))
    return {
        CORRECTED: tested.p is not None and tested.p < LEVEL,
        PLAIN: tested.p_uncorrected is not None and tested.p_uncorrected < LEVEL,
        MCNEMAR: mcnemar_test(correct[0], correct[1]).p_mid < LEVEL,
        POOLED: not interval.low <= 0 <= interval.high,
    }


def pooled_interval(
    world: World, answers: NDArray[np.int64], labels: NDArray[np.int64], seed: int
) -> Interval:
    """Interval of the difference in accuracy, from answers [2, repeats, N], as `compare` has it."""
    every, image = np.tile(labels, world.repeats), np.tile(np.arange(world.n), world.repeats)
    scores, draws = [], []
    for said in answers:
        table = np.eye(world.classes)[said.ravel()]
        clusters = image if world.repeats > 1 else None
        resampled = resample(table, every, clusters, resamples=RESAMPLES, seed=seed)
        assert resampled is not None
        found = score_intervals(table, every, resampled, level=1 - LEVEL)
        scores.append(Pooled(found.values["acc"], found.scores["acc"]))
        draws.append(resampled.scores["acc"])
    interval = difference_interval(scores[0], scores[1], correlation(draws[0], draws[1]))
    assert interval is not None
    return interval


def rates(world: World, repetitions: int, seed: int) -> dict[str, float]:
    """Share of repetitions in which each test finds a difference."""
    generator = np.random.default_rng(seed)
    found = [differs(world, generator) for _ in range(repetitions)]
    return {test: sum(one[test] for one in found) / repetitions for test in TESTS}


def report(repetitions: int, seed: int) -> str:
    """The section of RESULTS.md."""
    error = 100 * (LEVEL * (1 - LEVEL) / repetitions) ** 0.5
    lines = [
        "## False positives of tests between configs",
        "",
        measured_on(torch.device("cpu"), ["numpy", "scipy", "scikit-learn"]),
        "",
        "Share of repetitions in which two classifiers that are equally good by construction are "
        f"called different at the 5 % level. {repetitions:,} repetitions, each with data of its "
        f"own; the standard error of a rate of 5 % is {error:.1f} points.",
        "",
        f"| data | {' | '.join(TESTS)} |",
        f"|---|{'--:|' * len(TESTS)}",
    ]
    for world in WORLDS:
        found = rates(world, repetitions, seed)
        cells = [f"{100 * found[test]:.1f} %" for test in TESTS]
        lines.append(f"| {world} | **{cells[0]}** | {' | '.join(cells[1:])} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    parsed = parser.parse_args(arguments)
    section = report(parsed.repetitions, parsed.seed)
    if parsed.write:
        write_section("null-rate", section)
    else:
        print(section)


if __name__ == "__main__":
    main()
