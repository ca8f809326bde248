"""The best epoch so far, and when patience for a better one runs out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class BestEpoch:
    """State of the search. `sign` is +1 if larger is better, else -1; epochs count from 1.

    The best epoch is the one with the best value, however small the gain (ties: the earlier one).
    Patience is only renewed by a gain of more than `min_delta` over `reference`.
    """

    sign: int
    patience: int | None
    min_delta: float
    epoch: int = 0
    value: float | None = None
    reference: float | None = None
    waited: int = 0

    def after(self, epoch: int, value: float | None) -> BestEpoch:
        """State after `epoch` scored `value` (None: undefined, which never is an improvement)."""
        score = -math.inf if value is None else self.sign * value
        best = -math.inf if self.value is None else self.sign * self.value
        state = self
        if score > best or self.epoch == 0:
            state = replace(state, epoch=epoch, value=value)
        reference = -math.inf if self.reference is None else self.sign * self.reference
        if score > reference + self.min_delta or (score > reference and math.isinf(reference)):
            return replace(state, reference=value, waited=0)
        return replace(state, waited=self.waited + 1)

    @property
    def should_stop(self) -> bool:
        return self.patience is not None and self.waited >= self.patience
