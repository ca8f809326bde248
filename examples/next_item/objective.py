"""InfoNCE or BCE of the next item, and the scores that belong to them.

Legend: P positions with an item to predict, D hidden units, B histories, I items. Padding is no
position here, so everything that is passed in counts.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor

from clip_pkg.config.loss_blocks import TermLabel
from clip_pkg.losses.contract import LossOutput, weighted_sum
from clip_pkg.losses.functional import PairStatistics, bce_pos_neg, sampled_softmax_collision_masked
from clip_pkg.losses.functional.numerics import unit
from examples.next_item.model import NextItemModel
from examples.next_item.settings import Settings

LABELS = MappingProxyType(
    {
        "infonce": TermLabel("infonce", "InfoNCE", "nce"),
        "bce": TermLabel("bce", "BCE", "bce"),
        "l2": TermLabel("l2", "L2", "l2"),
    }
)


class NextItemObjective:
    """The loss of a batch, and how much each item is like what comes next."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.loss
        self.weights = {self.name: 1.0, "l2": settings.l2_emb}
        self._temperature = settings.infonce_temperature

    def __call__(
        self, model: NextItemModel, hidden: Tensor, positives: Tensor, negatives: Tensor
    ) -> LossOutput:
        """Loss of hidden states [P, D] with their next items [P] and one sampled item each [P].

        InfoNCE holds every position against the sampled items of all, except for its own next item
        where another has drawn it; BCE each against its own.
        """
        positive, negative = model.item_vectors(positives), model.item_vectors(negatives)
        if self.name == "infonce":
            loss = sampled_softmax_collision_masked(
                hidden,
                positive,
                negative,
                pos_ids=positives,
                neg_ids=negatives,
                temperature=self._temperature,
            )
            with torch.no_grad():
                anchors = unit(hidden) / self._temperature
                positive_logits = (anchors * unit(positive)).sum(dim=-1)
                differ = negatives != positives[:, None]
                negative_logits = (anchors @ unit(negative).T)[differ]
        else:
            positive_logits = (hidden * positive).sum(dim=-1)
            negative_logits = (hidden * negative).sum(dim=-1)
            loss = bce_pos_neg(positive_logits, negative_logits)
        terms = {self.name: loss, "l2": torch.linalg.vector_norm(model.items.weight)}
        return weighted_sum(terms, self.weights, _statistics(positive_logits, negative_logits))

    def scores(self, hidden: Tensor, items: Tensor) -> Tensor:
        """[B, I] scores of items [I, D] after histories [B, D]: cosines, or dot products of BCE."""
        if self.name == "infonce":
            hidden, items = unit(hidden), unit(items)
        return hidden @ items.T


def _statistics(positive: Tensor, negative: Tensor) -> dict[str, Tensor]:
    sides = (torch.std_mean(side.detach(), correction=0) for side in (positive, negative))
    (positive_std, positive_mean), (negative_std, negative_mean) = sides
    return PairStatistics(positive_mean, positive_std, negative_mean, negative_std)._asdict()
