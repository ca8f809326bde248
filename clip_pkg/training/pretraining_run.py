"""The epochs of a pre-training: train, look, save; and what came out in the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any, TextIO

import torch

from clip_pkg.base.files import remove_leftovers
from clip_pkg.config.load import dump_canonical
from clip_pkg.data.sampling import derive_seed
from clip_pkg.losses.two_views import PRETRAIN_LOSSES
from clip_pkg.models.checkpoint import save_checkpoint
from clip_pkg.study.tasks import FoldResult, PretrainTask
from clip_pkg.training.banner import setting_lines
from clip_pkg.training.console import FoldConsole
from clip_pkg.training.environment import describe_environment
from clip_pkg.training.fold import backends, state_to_continue
from clip_pkg.training.history import History
from clip_pkg.training.loss_scores import (
    LossScores,
    RunningSums,
    loss_columns,
    loss_scores,
    loss_sums,
)
from clip_pkg.training.optimisation import Diverged
from clip_pkg.training.outputs import Cadence
from clip_pkg.training.pretraining_setup import PretrainingSetup, set_up
from clip_pkg.training.pretraining_watch import LABEL_COLUMNS, TAGS, RecentPairs, collapse
from clip_pkg.training.tensorboard import FoldCurves, StepCurves
from clip_pkg.training.trainer import Interrupted, Stop


class PretrainingRun:
    """State of a pre-training between epochs, and what happens in one."""

    def __init__(self, setup: PretrainingSetup, console: FoldConsole, stop: Stop) -> None:
        self._setup = setup
        self._console = console
        self._stop = stop
        self._labels = PRETRAIN_LOSSES[setup.block.loss.type].parts
        self._history = History()
        self._untrained: dict[str, float | None] = {}
        self._collapsed: str | None = None
        self._train_seconds = 0.0
        self._cadence = Cadence()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a checkpoint; the setup has its part of it already."""
        self._history = History(state["history"])
        self._untrained = state["untrained"]
        self._collapsed = state["collapsed"]
        self._train_seconds = state["train_seconds"]

    def run(self) -> None:
        """Train the epochs that are left, and leave the encoder."""
        setup = self._setup
        total, done = setup.config.epochs, self._history.epochs
        curves = FoldCurves(setup.task.curves, self._labels, self._history, TAGS)
        steps = StepCurves(
            setup.task.curves,
            self._labels,
            total_steps=len(setup.train) * total,
            done=len(setup.train) * done,
        )
        with curves, steps:
            if setup.look is not None and not self._untrained:
                self._untrained = setup.look(setup.model.image_encoder, setup.precision)
                self._console.line(f"Untrained: {_words(self._untrained)}")
            while self._history.epochs < total:
                self._epoch(self._history.epochs + 1, steps)
                curves.add(self._history)
                if self._stop:
                    self._save()
                    raise Interrupted
                if self._cadence.due():
                    self._save()
        self._save(finished=True)

    def _epoch(self, epoch: int, curves: StepCurves) -> None:
        started = time.monotonic()
        setup = self._setup
        learning_rate = setup.peak_rate * setup.optimisation.factor
        pairs = RecentPairs()
        scores = self._train(epoch, pairs, curves)
        trained = time.monotonic() - started
        self._train_seconds += trained
        measures = pairs.measures()
        looks: dict[str, float | None] = dict.fromkeys(LABEL_COLUMNS)
        is_due = epoch % setup.block.probe_every == 0 or epoch == setup.config.epochs
        if setup.look is not None and is_due:
            looks = setup.look(setup.model.image_encoder, setup.precision)
        row: dict[str, float | None] = {
            "train_loss": scores.loss,
            **loss_columns("train", scores, setup.loss.part_weights),
            **measures,
            **looks,
            "learning_rate": learning_rate,
            "epoch_seconds": time.monotonic() - started,
            "train_images_per_second": len(setup.train) * setup.train.batch_size / trained,
        }
        self._history.append(row)
        self._history.write(setup.task.paths.history)
        self._console.measured_line(
            f"Train Loss: {scores.loss:.4f}, {_words({**measures, **looks})}", row["probe_acc"]
        )
        self._warn(collapse(measures, setup.block.projection.dim))

    def _warn(self, collapsed: str | None) -> None:
        """Say it in the first epoch of which it is true."""
        if collapsed is not None and self._collapsed is None:
            self._console.line(f"WARNING: {collapsed}")
        self._collapsed = collapsed

    def _train(self, epoch: int, pairs: RecentPairs, curves: StepCurves) -> LossScores:
        """Train one epoch, a function of the state before it and its number."""
        setup = self._setup
        steps, size = len(setup.train), setup.train.batch_size
        torch.manual_seed(derive_seed(*setup.seed_parts, epoch, "layers of the pre-training"))
        setup.model.train()
        progress = self._console.phase("train", epoch=epoch, steps=steps, batch_size=size)
        sums, started = RunningSums(), time.monotonic()

        def fetch() -> LossScores:
            return loss_scores(sums.means())

        for done, views in enumerate(setup.train.epoch(epoch), start=1):
            outcome = setup.step(views)
            sums.add(loss_sums(outcome.output, size), size)
            pairs.add(outcome)
            curves.add(outcome.output)
            self._after_step(done, steps, fetch, progress)
        setup.optimisation.check()
        curves.flush()
        scores = fetch()
        self._console.phase_done(
            "train", steps=steps, seconds=time.monotonic() - started, scores=scores
        )
        return scores

    def _after_step(
        self,
        done: int,
        steps: int,
        fetch: Callable[[], LossScores],
        progress: Callable[[int, Callable[[], LossScores] | None], None],
    ) -> None:
        if self._setup.device.type == "cpu":
            self._setup.optimisation.check()
        progress(done, fetch)
        if self._stop and done < steps:
            raise Interrupted  # the epoch is repeated

    def _save(self, *, finished: bool = False) -> None:
        """Write the latest state; at the end without the optimiser, and the encoder."""
        setup, started = self._setup, time.monotonic()
        common = {
            "identity": asdict(setup.task.identity),
            "epoch": self._history.epochs,
            "config": dump_canonical(setup.task.config),
        }
        state = setup.state()
        save_checkpoint(
            setup.task.paths.checkpoint_latest,
            {
                **common,
                **state,
                "fold": setup.task.fold,
                "optimisation": None if finished else setup.optimisation.state_dict(),
                "history": self._history.columns,
                "untrained": self._untrained,
                "collapsed": self._collapsed,
                "train_seconds": self._train_seconds,
            },
        )
        if finished:
            encoder = {
                name.removeprefix("image_encoder."): value
                for name, value in state["model"].items()
                if name.startswith("image_encoder.")
            }
            if not all(bool(torch.isfinite(value).all()) for value in encoder.values()):
                raise Diverged("the pre-trained encoder has weights that are not finite")
            save_checkpoint(setup.task.paths.encoder, {**common, "image_encoder": encoder})
        self._cadence.record(time.monotonic() - started)

    def result(self, seconds: float) -> FoldResult:
        """Return what the pre-training achieved."""
        setup = self._setup
        self._history.write(setup.task.paths.history)
        collapsed = () if self._collapsed is None else (self._collapsed,)
        row = self._history.row(self._history.epochs)
        return FoldResult(
            identity=setup.task.identity,
            fold=setup.task.fold,
            n_train=len(setup.indices),
            n_val=0,
            best_epoch=None,
            last_epoch=self._history.epochs,
            stopped_early=False,
            best={},
            last={name: row[name] for name in ("train_loss", *TAGS)},
            untrained=self._untrained,
            chosen_on="no image",
            device=str(setup.device),
            environment=describe_environment(setup.device, setup.precision),
            seconds=seconds,
            train_seconds=self._train_seconds,
            peak_memory_bytes=(
                torch.cuda.max_memory_reserved(setup.device)
                if setup.device.type == "cuda"
                else None
            ),
            notices=[*setup.notices, *collapsed],
        )


def _words(measures: Mapping[str, float | None]) -> str:
    """Measures as people read them; percent for accuracies."""
    return ", ".join(
        f"{name.replace('_acc', '').replace('_', ' ')} "
        + (f"{value:.2f}%" if name in LABEL_COLUMNS else f"{value:.3g}")
        for name, value in measures.items()
        if value is not None
    )


def run_pretraining(
    task: PretrainTask, *, device: torch.device, device_id: str, stream: TextIO, stop: Stop
) -> FoldResult:
    """Pre-train and return the result; every file but the result itself is written here.

    Raises Interrupted when `stop` became true, Diverged when training went to NaN.
    """
    with backends():
        return _run(task, device=device, device_id=device_id, stream=stream, stop=stop)


def _run(
    task: PretrainTask, *, device: torch.device, device_id: str, stream: TextIO, stop: Stop
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
