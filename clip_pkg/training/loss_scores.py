"""Means of a loss over the samples of a pass, and their columns in `history.json`.

Nothing here depends on what a sample is: an image, a sequence, a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clip_pkg.losses.contract import LossOutput

TERM, STATISTIC = "term:", "statistic:"


@dataclass(frozen=True)
class LossScores:
    """Means over samples.

    loss: the total. terms: its unweighted terms. statistics: as in `LossOutput`.
    """

    loss: float
    terms: Mapping[str, float]
    statistics: Mapping[str, float]


class RunningSums:
    """Sums of scalars on the device, read once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, sums: Mapping[str, Tensor], count: int) -> None:
        """Add the sums of a batch of `count` samples, [] each; every batch has the same names."""
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += count

    def means(self) -> dict[str, float]:
        """Means so far. Waits for the device."""
        values = torch.stack(list(self._sums.values())).tolist()
        return {name: value / self._count for name, value in zip(self._sums, values, strict=True)}


def loss_sums(output: LossOutput, count: int) -> dict[str, Tensor]:
    """Sums over a batch of `count` samples, float64, of the means in its `LossOutput`."""
    values = {f"{TERM}{name}": term for name, term in output.terms.items()}
    values |= {f"{STATISTIC}{name}": value for name, value in output.statistics.items()}
    values["loss"] = output.total
    return {name: value.detach().double() * count for name, value in values.items()}


def loss_scores(means: Mapping[str, float]) -> LossScores:
    """Sort the means of `loss_sums`."""

    def named(kind: str) -> dict[str, float]:
        return {
            name.removeprefix(kind): value for name, value in means.items() if name.startswith(kind)
        }

    return LossScores(means["loss"], named(TERM), named(STATISTIC))


def loss_columns(
    prefix: str, scores: LossScores, weights: Mapping[str, float]
) -> dict[str, float | None]:
    """Columns of the loss's terms: unweighted, weighted, as shares of the total; and statistics.

    Args:
        prefix: of every column, such as `val`.
        scores: means over the samples.
        weights: of the terms in the total.
    """
    columns: dict[str, float | None] = {}
    for name, value in scores.terms.items():
        columns[f"{prefix}_{name}_loss"] = value
        if len(scores.terms) > 1:
            weighted = weights[name] * value
            columns[f"{prefix}_{name}_weighted"] = weighted
            columns[f"{prefix}_{name}_share"] = weighted / scores.loss if scores.loss else None
    return columns | {f"{prefix}_logits_{name}": value for name, value in scores.statistics.items()}
