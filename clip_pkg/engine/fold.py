"""Trains one fold from its task to its result; goes on where an interrupted attempt stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TextIO

import torch

from clip_pkg.atomic import remove_leftovers
from clip_pkg.engine.banner import configuration_lines
from clip_pkg.engine.console import FoldConsole
from clip_pkg.engine.frozen_images import feature_batches, keeps_features, with_features
from clip_pkg.engine.passes import FoldPasses
from clip_pkg.engine.profiling import FoldProfiler, Unprofiled
from clip_pkg.engine.ranks import ALONE, Ranks
from clip_pkg.engine.resumption import resumed_setup
from clip_pkg.engine.setup import FoldSetup
from clip_pkg.engine.training import FoldTraining, Interrupted, Stop
from clip_pkg.losses.table import part_labels
from clip_pkg.planning.tasks import FoldResult, FoldTask
from clip_pkg.precision import flushed_denormals


def run_fold(
    task: FoldTask,
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


def follow_fold(task: FoldTask, *, device: torch.device, ranks: Ranks) -> None:
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
    task: FoldTask,
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
        f"{task.part.capitalize()} done: {best if task.holds_out else ''}"
        f"last epoch {result.last_epoch}, {result.seconds:.1f} s"
    )
    return result
