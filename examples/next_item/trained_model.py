"""A checkpoint as all that is needed to rank: settings, weights, features, items and histories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_pkg.base.errors import CheckpointError
from clip_pkg.models.checkpoint import load_checkpoint
from examples.next_item.batches import Question
from examples.next_item.interactions import Interactions
from examples.next_item.model import NextItemModel
from examples.next_item.objective import NextItemObjective
from examples.next_item.settings import Settings

KIND = "next item"


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What scores items: made by a training, or from a checkpoint alone."""

    settings: Settings
    interactions: Interactions
    model: NextItemModel
    objective: NextItemObjective

    def scores(self, question: Question) -> Tensor:
        """Score all rows after each history, [B, I + 1], in evaluation mode."""
        return self.objective.scores(self.hidden(question), self.model.all_item_vectors())

    def hidden(self, question: Question) -> Tensor:
        """What is known at the end of each history, [B, D]."""
        device = self.model.items.weight.device
        states = self.model(question.inputs.to(device))
        each = torch.arange(len(states), device=device)
        last: Tensor = states[each, question.last.to(device)]
        return last

    def state(self) -> dict[str, Any]:
        """What goes into a checkpoint, and comes out of it by `load`."""
        return {
            "kind": KIND,
            "settings": asdict(self.settings),
            "features": self.model.feature_sizes,
            "interactions": {
                name: torch.from_numpy(values) for name, values in vars(self.interactions).items()
            },
            "model": self.model.state_dict(),
        }


def build(
    settings: Settings, interactions: Interactions, features: Mapping[str, Tensor]
) -> TrainedModel:
    """Make a model with new weights."""
    model = NextItemModel(settings, interactions.num_items, features)
    return TrainedModel(settings, interactions, model, NextItemObjective(settings))


def load(path: Path, device: torch.device) -> tuple[TrainedModel, dict[str, Any]]:
    """Read a checkpoint of `main.py`; also returns all that it holds.

    Raises CheckpointError for any other.
    """
    content = load_state(path, device)
    arrays = {name: values.cpu().numpy() for name, values in content["interactions"].items()}
    interactions = Interactions(**arrays)
    rows = interactions.num_items + 1
    blank = {name: torch.zeros(rows, size) for name, size in content["features"].items()}
    trained = build(Settings(**content["settings"]), interactions, blank)
    trained.model.load_state_dict(content["model"])
    trained.model.to(device).eval()
    return trained, content


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint. Raises CheckpointError for one that is not of `main.py`."""
    content = load_checkpoint(path, device)
    if content.get("kind") != KIND:
        raise CheckpointError(
            f"{path} is a checkpoint of another program, not of next-item training"
        )
    return content


def device_here() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
