"""Means of a loss over the samples of an epoch, and their columns in `history.json`.

Nothing here depends on what a sample is: an image, a sequence, a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clip_pkg.losses.contract import LossOutput
from clip_pkg.losses.functional.numerics import widest_float
from clip_pkg.training.history import Columns

TERM, STATISTIC = "term:", "statistic:"


@dataclass(frozen=True)
class MeanScores:
    """Means over samples.

    loss: the total. terms: its unweighted terms. statistics: as in `LossOutput`. accuracy: a
    fraction; of mixed images, those whose larger share was predicted. None without predictions.
    """

    loss: float
    terms: Mapping[str, float]
    statistics: Mapping[str, float]
    accuracy: float | None = None

    def columns(self, prefix: str, weights: Mapping[str, float]) -> Columns:
        """Columns of the loss's terms: unweighted, weighted, as shares of the total; statistics.

        prefix: of every column, such as `val`. weights: of the terms in the total.
        """
        columns: Columns = {}
        for name, value in self.terms.items():
            columns[f"{prefix}_{name}_loss"] = value
            if len(self.terms) > 1:
                weighted = weights[name] * value
                columns[f"{prefix}_{name}_weighted"] = weighted
                columns[f"{prefix}_{name}_share"] = weighted / self.loss if self.loss else None
        return columns | {f"{prefix}_logits_{name}": v for name, v in self.statistics.items()}


class RunningScores:
    """`MeanScores` of the batches so far; sums stay on the device and are fetched once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, output: LossOutput, count: int, correct: Tensor | None = None) -> None:
        """Add a batch of `count` samples; correct: number of correct predictions, []."""
        values = {f"{TERM}{name}": term for name, term in output.terms.items()}
        values |= {f"{STATISTIC}{name}": value for name, value in output.statistics.items()}
        values["loss"] = output.total
        kind = widest_float(output.total.device)
        sums = {name: value.detach().to(kind) * count for name, value in values.items()}
        if correct is not None:
            sums["correct"] = correct.to(kind)
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += count

    def fetch(self) -> MeanScores:
        """Means so far. Waits for the device."""
        values = torch.stack(list(self._sums.values())).tolist()
        means = {name: value / self._count for name, value in zip(self._sums, values, strict=True)}

        def named(kind: str) -> dict[str, float]:
            return {n.removeprefix(kind): mean for n, mean in means.items() if n.startswith(kind)}

        return MeanScores(means["loss"], named(TERM), named(STATISTIC), means.get("correct"))
