"""A fold as its checkpoint left it, or as it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clip_pkg.checkpoint import load_checkpoint
from clip_pkg.engine.ranks import Ranks
from clip_pkg.engine.setup import FoldSetup, set_up
from clip_pkg.errors import CheckpointError
from clip_pkg.planning.tasks import FoldTask, Identity


def resumed_setup(
    task: FoldTask, device: torch.device, ranks: Ranks
) -> tuple[FoldSetup, Path | None, dict[str, Any] | None]:
    """Build a fold as its checkpoint left it; also returns the checkpoint and what it holds."""
    source, state = state_to_continue(task)
    setup = set_up(task, device, None if state is None else state["model"], ranks)
    if state is not None:
        setup.objective.load_state_dict(state["objective"])
        # A finished fold has none; all that can be missing then is the result file.
        if state["optimisation"] is not None:
            setup.optimisation.load_state_dict(state["optimisation"])
    return setup, source, state


def state_to_continue(task: FoldTask) -> tuple[Path | None, dict[str, Any] | None]:
    """Find the checkpoint of a task that goes on, and what it holds; None and None of a new one."""
    source = task.checkpoint_to_continue
    return source, None if source is None else _matching_state(task, source)


def _matching_state(task: FoldTask, source: Path) -> dict[str, Any]:
    """Read a checkpoint. Raises CheckpointError when it is not of this fold of this run."""
    state = load_checkpoint(source)
    differences = task.identity.differences(Identity(**state["identity"]))
    if state["fold"] != task.fold:
        differences.append(f"fold ({state['fold']} instead of {task.fold})")
    if differences:
        raise CheckpointError(
            f"{source} belongs to another run: its {', '.join(differences)} differ; "
            "use the settings it was made with, or start anew without it"
        )
    return state
