"""Pre-trains an image encoder from its task to its result; goes on where it was interrupted."""

from __future__ import annotations

import os
import time
from contextlib import closing
from typing import TextIO

import torch

from clip_pkg.atomic import remove_leftovers
from clip_pkg.engine.banner import setting_lines
from clip_pkg.engine.console import FoldConsole
from clip_pkg.engine.fold import backends
from clip_pkg.engine.resumption import state_to_continue
from clip_pkg.engine.training import Stop
from clip_pkg.losses.pretraining import PRETRAIN_LOSSES
from clip_pkg.planning.tasks import FoldResult, FoldTask
from clip_pkg.pretraining.setup import PretrainingSetup, set_up
from clip_pkg.pretraining.training import PretrainingRun


def run_pretraining(
    task: FoldTask, *, device: torch.device, device_id: str, stream: TextIO, stop: Stop
) -> FoldResult:
    """Pre-train and return the result; every file but the result itself is written here.

    Raises Interrupted when `stop` became true, Diverged when training went to NaN.
    """
    with backends():
        return _run(task, device=device, device_id=device_id, stream=stream, stop=stop)


def _run(
    task: FoldTask, *, device: torch.device, device_id: str, stream: TextIO, stop: Stop
) -> FoldResult:
    started = time.monotonic()
    task.paths.root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(task.paths.root)
    source, state = state_to_continue(task)
    setup = set_up(task, device, state)
    with closing(setup.pixels):
        console = FoldConsole(
            stream,
            task.paths.progress,
            epochs=setup.config.epochs,
            labels=PRETRAIN_LOSSES[setup.block.loss.type].parts,
        )
        console.banner("PRE-TRAINING CONFIGURATION", _lines(setup, device_id))
        for notice in setup.notices:
            console.line(f"NOTE: {notice}")
        run = PretrainingRun(setup, console, stop)
        if state is not None:
            run.restore(state)
            console.line(f"Going on after epoch {state['epoch']} from {source}")
        run.run()
        result = run.result(time.monotonic() - started)
    console.line(f"Pre-training done: last epoch {result.last_epoch}, {result.seconds:.1f} s")
    return result


def _lines(setup: PretrainingSetup, device_id: str) -> list[tuple[str, str]]:
    """`(name, value)` pairs: the loss, the images, and every other setting."""
    task, config, block = setup.task, setup.config, setup.block
    parameters = sum(p.numel() for p in setup.model.image_encoder.parameters())
    watched = "watched with labels" if setup.look is not None else "watched without labels"
    return [
        ("Loss Type", block.loss.type),
        *setting_lines(block.loss, {"type"}),
        ("Config", task.name),
        ("Looks at", f"{len(setup.indices)} images, {watched}"),
        ("Steps", f"{len(setup.train)} per epoch, {len(setup.train) * config.epochs} in all"),
        ("Device", f"{device_id} ({setup.precision}), process {os.getpid()}"),
        ("Image encoder", f"{config.image_encoder_name}, stem {config.stem}"),
        ("Parameters", f"{parameters:,} of the encoder"),
        *setting_lines(block, {"loss"}),
        ("Random state", str(config.random_state)),
    ]
