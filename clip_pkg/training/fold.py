"""Trains one fold from its task to its result; goes on where an interrupted attempt stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch

from clip_pkg.base.errors import CheckpointError
from clip_pkg.base.files import remove_leftovers
from clip_pkg.losses.registry import part_labels
from clip_pkg.models.checkpoint import load_checkpoint
from clip_pkg.models.precision import flushed_denormals
from clip_pkg.study.identity import identity_from_json
from clip_pkg.study.tasks import FoldResult, FoldTask, ModelTask, Task
from clip_pkg.training.banner import configuration_lines
from clip_pkg.training.console import FoldConsole
from clip_pkg.training.frozen_images import feature_batches, keeps_features, with_features
from clip_pkg.training.passes import FoldPasses
from clip_pkg.training.profiling import FoldProfiler, Unprofiled
from clip_pkg.training.ranks import ALONE, Ranks
from clip_pkg.training.setup import FoldSetup, set_up
from clip_pkg.training.trainer import FoldTraining, Interrupted, Stop


def resumed_setup(
    task: ModelTask, device: torch.device, ranks: Ranks
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


def state_to_continue(task: Task) -> tuple[Path | None, dict[str, Any] | None]:
    """Find the checkpoint of a task that goes on, and what it holds; None and None of a new one."""
    source = task.checkpoint_to_resume
    return source, None if source is None else _matching_state(task, source)


def _matching_state(task: Task, source: Path) -> dict[str, Any]:
    """Read a checkpoint. Raises CheckpointError when it is not of this fold of this run."""
    state = load_checkpoint(source)
    differences = task.identity.differences(identity_from_json(state["identity"]))
    if state["fold"] != task.fold:
        differences.append(f"fold ({state['fold']} instead of {task.fold})")
    if differences:
        raise CheckpointError(
            f"{source} belongs to another run: its {', '.join(differences)} differ; "
            "use the settings it was made with, or start anew without it"
        )
    return state


def run_fold(
    task: ModelTask,
    *,
    device: torch.device,
    device_id: str,
    stream: TextIO,
    stop: Stop,
    ranks: Ranks = ALONE,
) -> FoldResult:
    """Train a fold and return its result; every file but the result itself is written here.

    Of several `ranks` this is what the first one does. Raises Interrupted when `stop` became true,
    Diverged when training went to NaN.
    """
    with backends():
        return _train_fold(
            task, device=device, device_id=device_id, stream=stream, stop=stop, ranks=ranks
        )


def follow_fold(task: ModelTask, *, device: torch.device, ranks: Ranks) -> None:
    """Do what every rank but the first does: compute parts of what the first one asks for."""
    with backends():
        setup, _, _ = resumed_setup(task, device, ranks)
        with closing(setup):
            FoldPasses(setup).follow()


@contextmanager
def backends() -> Iterator[None]:
    """Set up torch, process-wide, for training: the same few shapes again and again."""
    # Timed once per shape. Whoever asks torch for determinism cannot have the choice be timed.
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    with flushed_denormals():
        yield


def _with_features(setup: FoldSetup, console: FoldConsole, stop: Stop) -> FoldSetup:
    """Let a frozen image encoder look at all images, for the only time."""
    started, batches = time.monotonic(), feature_batches(setup)
    progress = console.phase("features", epoch=0, steps=len(batches), batch_size=batches.batch_size)

    def on_step(done: int) -> None:
        progress(done, None)
        if stop:
            raise Interrupted  # nothing is lost: they are computed again

    setup = with_features(setup, on_step)
    console.line(
        f"The frozen image encoder computed the features of {len(batches.indices)} images once "
        f"({time.monotonic() - started:.1f} s); every epoch works on these."
    )
    return setup


def _train_fold(
    task: ModelTask,
    *,
    device: torch.device,
    device_id: str,
    stream: TextIO,
    stop: Stop,
    ranks: Ranks,
) -> FoldResult:
    started = time.monotonic()
    task.paths.root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(task.paths.root)
    setup, source, state = resumed_setup(task, device, ranks)
    console = FoldConsole(
        stream,
        task.paths.progress,
        epochs=setup.config.epochs,
        labels=part_labels(setup.config.loss, setup.config.aux_losses),
    )
    console.banner("TRAINING CONFIGURATION", configuration_lines(setup, device_id))
    for text in (*(f"NOTE: {notice}" for notice in setup.notices), *setup.remarks):
        console.line(text)
    if keeps_features(setup):
        setup = _with_features(setup, console, stop)
    done = 0 if state is None else int(state["epoch"])
    profiler = FoldProfiler(setup, console, epochs_done=done) if task.profile else Unprofiled()
    training = FoldTraining(setup, console, stop, profiler)
    if state is not None:
        training.restore(state)
        console.line(f"Going on after epoch {state['epoch']} from {source}")
    with closing(setup):
        with profiler:
            training.run()
        result = training.result(time.monotonic() - started)
    best = f"best epoch {result.best_epoch} ({setup.config.early_stopping_monitor}), "
    console.line(
        f"{task.title.capitalize()} done: {best if isinstance(task, FoldTask) else ''}"
        f"last epoch {result.last_epoch}, {result.seconds:.1f} s"
    )
    return result
