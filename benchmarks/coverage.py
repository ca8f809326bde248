"""How often the 95 % intervals of `cv_summary.json` contain the true score, models fixed.

    bash benchmarks/run.sh coverage --write

Each repetition draws other images for the same classifier: logits are normal, shifted for the true
class so that each class has a given recall. The true score is that of very many images with the
same class sizes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import brentq

from benchmarks.results import measured_on, write_section
from clip_pkg.metrics.classification import classification_metrics, history_scores
from clip_pkg.metrics.table import METRICS
from clip_pkg.results.bootstrap import LEVEL, resample
from clip_pkg.results.intervals import score_intervals

RESAMPLES = 300  # enough for correlations; summaries take more
TRUTH = 200_000  # images that the true scores are computed from
SHARPNESS = 1.5  # factor on the logits
SHOWN = ("acc", "balanced_acc", "f1", "auroc", "mAP", "precision", "mcc", "kappa", "log_loss")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Images per class, and the true recall of each class."""

    sizes: tuple[int, ...]
    recalls: tuple[float, ...]

    def __str__(self) -> str:
        return " / ".join(map(str, self.sizes))

    def shifts(self) -> Floats:
        """By how much the logit of the true class is larger, [C]."""
        others = len(self.sizes) - 1
        normal = NormalDist()

        def recall(shift: float) -> float:
            """Probability that a normal variable, shifted, is the largest of C."""
            value, _ = quad(lambda x: normal.pdf(x - shift) * normal.cdf(x) ** others, -8, 12)
            return float(value)

        return np.array([brentq(lambda s, r=r: recall(s) - r, -2, 9) for r in self.recalls])


WORLDS = (
    World((94, 112), (0.85, 0.8)),
    World((50, 12, 8), (0.9, 0.7, 0.6)),
    World((100, 10, 5), (0.95, 0.8, 0.975)),
    World((188, 63, 57, 28, 20, 17, 13, 12, 6), (0.9, 0.8, 0.8, 0.7, 0.7, 0.6, 0.6, 0.5, 0.5)),
)


def draw(
    sizes: Sequence[int], shifts: Floats, random: np.random.Generator
) -> tuple[Floats, NDArray[np.int64]]:
    """Probabilities [N, C] and targets [N]."""
    targets = np.repeat(np.arange(len(sizes)), sizes)
    logits = random.normal(size=(len(targets), len(sizes)))
    logits[np.arange(len(targets)), targets] += shifts[targets]
    odds = np.exp(SHARPNESS * logits)
    return odds / odds.sum(axis=1, keepdims=True), targets


def coverage(world: World, repetitions: int, seed: int) -> tuple[dict[str, float], int]:
    """Share of intervals that contain the true score, and how many had no width."""
    random, shifts = np.random.default_rng(seed), world.shifts()
    times = TRUTH // sum(world.sizes)
    truth = history_scores(
        classification_metrics(*draw([n * times for n in world.sizes], shifts, random))
    )
    covered, empty = dict.fromkeys(SHOWN, 0), 0
    for _ in range(repetitions):
        probabilities, targets = draw(world.sizes, shifts, random)
        resampled = resample(
            probabilities, targets, resamples=RESAMPLES, seed=int(random.integers(2**31))
        )
        assert resampled is not None
        found = score_intervals(probabilities, targets, resampled)
        for name in SHOWN:
            interval, value = found.scores[name], truth[name]
            assert interval is not None
            assert value is not None
            covered[name] += interval.low <= value <= interval.high
            empty += interval.low == interval.high
    return {name: hits / repetitions for name, hits in covered.items()}, empty


def report(repetitions: int, seed: int) -> str:
    """The section of RESULTS.md."""
    error = 100 * (LEVEL * (1 - LEVEL) / repetitions) ** 0.5
    lines = [
        "## Coverage of 95 % intervals",
        "",
        measured_on(torch.device("cpu"), ["numpy", "scipy"]),
        "",
        "Share of repetitions, in percent, in which the interval contained the true score, models "
        f"fixed. {repetitions:,} repetitions per row; the standard error of 95 % is {error:.1f} "
        "points.",
        "",
        f"| images per class | {' | '.join(METRICS[name].title for name in SHOWN)} | zero width |",
        f"|---|{'--:|' * (len(SHOWN) + 1)}",
    ]
    for world in WORLDS:
        found, empty = coverage(world, repetitions, seed)
        cells = [f"{100 * found[name]:.1f}" for name in SHOWN]
        lines.append(f"| {world} | {' | '.join(cells)} | {empty} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the section, or put it into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    parsed = parser.parse_args(arguments)
    section = report(parsed.repetitions, parsed.seed)
    if parsed.write:
        write_section("coverage", section)
    else:
        print(section)


if __name__ == "__main__":
    main()
