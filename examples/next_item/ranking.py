"""How high the item that came next is ranked.

Legend: B histories, I items, M candidates.

An item of the history is no answer and takes no rank. Of items with equal scores every order is
equally likely: a metric is its mean over these orders, so that a model that scores all alike is
worth exactly a guess. A score that is no number is behind all that are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.next_item.batches import Question, Questions
from examples.next_item.interactions import Interactions, spans

TOP = 10
Score = Callable[[Question], Tensor]  # scores of all rows, [B, I + 1]


def answerable(scores: Tensor, question: Question) -> Tensor:
    """Scores [B, I + 1] in which padding and the items of the history are behind all others."""
    scores = scores.clone()
    scores[:, 0] = -math.inf
    scores[question.seen] = -math.inf
    return scores


@torch.inference_mode()
def evaluate(
    score: Score, questions: Questions, on_step: Callable[[int, int], None]
) -> dict[str, float]:
    """Hit rate, NDCG and MRR over the whole catalogue, and against sampled candidates."""
    full, sampled = [], []
    for done, question in enumerate(questions, start=1):
        assert question.targets is not None, "without an answer there is no rank"
        assert question.candidates is not None
        scores = score(question)
        target = question.targets[:, None].to(scores.device)
        own = scores.gather(1, target)
        others = answerable(scores, question).scatter(1, target, -math.inf)
        full.append(_places(own, others))
        candidates = question.candidates.to(scores.device)
        sampled.append(_places(own, scores.gather(1, candidates)))
        on_step(done, len(questions))
    metrics = _metrics(np.concatenate(full))
    return metrics | {f"sampled_{k}": v for k, v in _metrics(np.concatenate(sampled)).items()}


def _places(own: Tensor, others: Tensor) -> NDArray[np.int64]:
    """How many others [B, n] are ahead of the own score [B, 1], and level with it: [B, 2]."""
    ahead = (~(others <= own)).sum(dim=1)  # where one of them is NaN, too
    level = (others == own).sum(dim=1)
    return torch.stack([ahead, level], dim=1).cpu().numpy()


def _metrics(places: NDArray[np.int64]) -> dict[str, float]:
    """Means over users of the means over all orders of level items."""
    ahead, level = places.T
    ranks = np.arange(1, places.sum(axis=1).max() + 2)
    gains = {
        f"hr@{TOP}": ranks <= TOP,
        f"ndcg@{TOP}": np.where(ranks <= TOP, 1 / np.log2(ranks + 1), 0.0),
        "mrr": 1 / ranks,
    }
    found = {}
    for name, gain in gains.items():
        # The target is at rank ahead + 1, ahead + 2, … or ahead + level + 1.
        sums = np.concatenate([[0.0], np.cumsum(gain, dtype=np.float64)])
        found[name] = float(((sums[ahead + level + 1] - sums[ahead]) / (level + 1)).mean())
    return found


def table_lines(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Metrics of several models, aligned."""
    names = list(next(iter(rows.values())))
    lines = [" " * 12 + "".join(f"{name:>17}" for name in names)]
    for model, metrics in rows.items():
        lines.append(f"{model:<12}" + "".join(f"{metrics[name]:17.4f}" for name in names))
    return lines


def popularity(interactions: Interactions) -> Score:
    """Score items by how often they were taken in the training part, for everybody alike."""
    taken = interactions.rows[spans(interactions.starts[:-1], interactions.ends(held_out=2))]
    counts = torch.from_numpy(np.bincount(taken, minlength=interactions.num_items + 1)).float()
    return lambda question: counts.expand(len(question.users), -1)
