"""How often the corrected test finds a true difference between two classifiers, at the 5 % level.

    bash benchmarks/run.sh power --write

Each repetition draws a data set with three blocks of features: one that both classifiers see, and
one of each alone. Both are linear discriminants, fitted to the training images of every fold, so
that folds share training images as real ones do. The block that only the second sees tells less:
as much less as makes it, trained on as many images as in a fold, worse by the given points on
average, which is computed from the fitted weights without drawing test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.model_selection import RepeatedStratifiedKFold

from benchmarks.results import measured_on, write_section
from clip_pkg.results.statistics import corrected_resampled_t_test, planned_difference

LEVEL = 0.05
SHARED, OWN = 10, 10  # features that both see, and that one sees alone
DISTANCES = (1.0, 1.8)  # between the classes' centres, in standard deviations, in these blocks
POINTS = (0, 2, 5, 10)
SIZES, FOLDS, REPEATS = (100, 200, 400, 1600), (5, 10), (1, 4)
DRAWS = 300  # training sets that an expected accuracy is the mean over

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """Rejections per true difference and number of repeats, of `data_sets`.

    disagreement: share of images that only one of two equally good classifiers gets right.
    """

    data_sets: int
    rejections: dict[tuple[int, int], int]
    disagreement: float

    def rate(self, points: int, repeats: int) -> float:
        return self.rejections[points, repeats] / self.data_sets


def design(noise: Floats, labels: Floats, distance: float) -> Floats:
    """Columns [n, 1 + SHARED + OWN] that one classifier sees: a constant and its features.

    noise: of its features [n, SHARED + OWN]. labels: −1 or 1. distance: in its own block.
    """
    features = noise.copy()
    for column, apart in ((0, DISTANCES[0]), (SHARED, distance)):
        features[:, column] += labels * apart / 2
    return np.hstack([np.ones((len(noise), 1)), features])


def fitted(columns: Floats, labels: Floats) -> Floats:
    """Weights of the least squares fit to labels, Fisher's discriminant for classes of equal size.

    columns: [..., n, p]. labels: [..., n].
    """
    gram = np.swapaxes(columns, -1, -2) @ columns
    moment = np.swapaxes(columns, -1, -2) @ labels[..., None]
    return np.asarray(np.linalg.solve(gram, moment)[..., 0])


def right_in_folds(columns: Floats, labels: Floats, tests: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each test image [folds, m] is classified correctly by the fit to the others.

    tests: [folds, m] images of each fold.
    """
    held, held_labels = columns[tests], labels[tests]
    swapped = np.swapaxes(held, 1, 2)
    gram = columns.T @ columns - swapped @ held
    moment = (columns.T @ labels)[:, None] - swapped @ held_labels[..., None]
    scores = (held @ np.linalg.solve(gram, moment))[..., 0]
    return np.asarray(scores * held_labels > 0)


def expected_accuracy(noise: Floats, distance: float) -> float:
    """Mean over training sets of the accuracy on further images, known from the weights.

    noise: of the training sets' features [DRAWS, n, SHARED + OWN].
    """
    labels = balanced(noise.shape[1])
    weights = np.stack([fitted(design(one, labels, distance), labels) for one in noise])
    towards = (weights[:, 1] * DISTANCES[0] + weights[:, 1 + SHARED] * distance) / 2
    length, bias = np.linalg.norm(weights[:, 1:], axis=1), weights[:, 0]
    ends = norm.cdf([(towards + bias) / length, (towards - bias) / length])
    return float(np.mean(ends))


def balanced(n: int) -> Floats:
    """Labels −1 and 1 in turn."""
    return np.where(np.arange(n) % 2 == 0, -1.0, 1.0)


def distances(n_train: int, generator: np.random.Generator) -> dict[int, float]:
    """Distance in the second classifier's own block for each of `POINTS`."""
    noise = generator.normal(size=(DRAWS, n_train, SHARED + OWN))
    best = expected_accuracy(noise, DISTANCES[1])

    def surplus(distance: float, points: int) -> float:
        return best - expected_accuracy(noise, distance) - points / 100

    return {
        points: DISTANCES[1]
        if points == 0
        else float(brentq(surplus, 0.0, DISTANCES[1], args=(points,), xtol=1e-3))
        for points in POINTS
    }


def simulate(n: int, folds: int, data_sets: int, seed: int) -> Found:
    """Cross-validate both classifiers on `data_sets` sets of n images; count what is found."""
    generator = np.random.default_rng([seed, n, folds])
    second = distances(n - n // folds, generator)
    labels = balanced(n)
    rejections = {(points, repeats): 0 for points in POINTS for repeats in REPEATS}
    disagreement = 0.0
    for _ in range(data_sets):
        noise = generator.normal(size=(n, SHARED + 2 * OWN))
        state = int(generator.integers(2**31))
        splitter = RepeatedStratifiedKFold(
            n_splits=folds, n_repeats=max(REPEATS), random_state=state
        )
        tests = np.stack([test for _, test in splitter.split(noise, labels)])
        mine = design(noise[:, : SHARED + OWN], labels, DISTANCES[1])
        right = right_in_folds(mine, labels, tests)
        for points, distance in second.items():
            theirs = design(np.delete(noise, np.s_[SHARED : SHARED + OWN], 1), labels, distance)
            others = right_in_folds(theirs, labels, tests)
            differences = right.mean(axis=1) - others.mean(axis=1)
            if points == 0:
                disagreement += float((right != others).mean()) / data_sets
            for repeats in REPEATS:
                tested = corrected_resampled_t_test(
                    differences[: folds * repeats].tolist(), test_to_train=1 / (folds - 1)
                )
                rejections[points, repeats] += tested.p is not None and tested.p < LEVEL
    return Found(data_sets, rejections, disagreement)


def report(data_sets: int, seed: int) -> str:
    """The section of RESULTS.md."""
    lines = [
        "## Power of the corrected test",
        "",
        measured_on(torch.device("cpu"), ["numpy", "scipy", "scikit-learn"]),
        "",
        "Share of data sets in which two linear discriminants are called different at the 5 % "
        "level, by the true difference of their accuracies when trained on a fold's images; 0: "
        f"false positives. {data_sets:,} data sets per row and column; the standard error is at "
        f"most {50 / data_sets**0.5:.1f} points, at 5 % {21.8 / data_sets**0.5:.1f}. Planned: the "
        "difference that `plan` gives for 80 % power with the measured share of images that only "
        "one of the two classifies correctly.",
        "",
        "| images | folds | repeats | only one right | "
        + " | ".join(f"{points} points" for points in POINTS)
        + " | planned for 80 % |",
        f"|--:{'|--:' * (len(POINTS) + 4)}|",
    ]
    for n in SIZES:
        for folds in FOLDS:
            found = simulate(n, folds, data_sets, seed)
            for repeats in REPEATS:
                rates = (f"{100 * found.rate(points, repeats):.1f} %" for points in POINTS)
                planned = planned_difference(
                    n, n_splits=folds, n_repeats=repeats, disagreement=found.disagreement
                )
                lines.append(
                    f"| {n} | {folds} | {repeats} | {100 * found.disagreement:.0f} % | "
                    f"{' | '.join(rates)} | {100 * planned:.1f} points |"
                )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-sets", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    parsed = parser.parse_args(arguments)
    section = report(parsed.data_sets, parsed.seed)
    if parsed.write:
        write_section("power", section)
    else:
        print(section)


if __name__ == "__main__":
    main()
