"""Means of what a loss says of its batches, and what they are called in `history.json`.

Nothing here knows what a sample is: an image, a sequence, a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clip_pkg.losses.contract import LossOutput

PART, STATISTIC = "part:", "statistic:"


@dataclass(frozen=True)
class LossScores:
    """Means over the samples seen.

    loss: the total. parts: its unweighted terms. statistics: what else the loss tells of a batch.
    """

    loss: float
    parts: Mapping[str, float]
    statistics: Mapping[str, float]


class RunningSums:
    """Sums of scalars on the device, fetched once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, sums: Mapping[str, Tensor], count: int) -> None:
        """Add the sums of a batch of `count` samples, [] each; every batch has the same names."""
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += count

    def means(self) -> dict[str, float]:
        """Return means so far. Waits for the device."""
        values = torch.stack(list(self._sums.values())).tolist()
        return {name: value / self._count for name, value in zip(self._sums, values, strict=True)}


def loss_sums(output: LossOutput, count: int) -> dict[str, Tensor]:
    """Sums over a batch of `count` samples, float64, of what its loss gives as means."""
    values = {f"{PART}{name}": part for name, part in output.parts.items()}
    values |= {f"{STATISTIC}{name}": value for name, value in output.statistics.items()}
    values["loss"] = output.total
    return {name: value.detach().double() * count for name, value in values.items()}


def loss_scores(means: Mapping[str, float]) -> LossScores:
    """Sort the means of `loss_sums`."""

    def named(kind: str) -> dict[str, float]:
        return {
            name.removeprefix(kind): value for name, value in means.items() if name.startswith(kind)
        }

    return LossScores(means["loss"], named(PART), named(STATISTIC))


def loss_columns(
    prefix: str, scores: LossScores, weights: Mapping[str, float]
) -> dict[str, float | None]:
    """Columns of the loss's parts, plain, weighted and as shares of the total; statistics.

    weights: of the parts in the total.
    """
    columns: dict[str, float | None] = {}
    for name, value in scores.parts.items():
        columns[f"{prefix}_{name}_loss"] = value
        if len(scores.parts) > 1:
            weighted = weights[name] * value
            columns[f"{prefix}_{name}_weighted"] = weighted
            columns[f"{prefix}_{name}_share"] = weighted / scores.loss if scores.loss else None
    return columns | {f"{prefix}_logits_{name}": value for name, value in scores.statistics.items()}
