"""Trains one fold from its task to its result; goes on where an interrupted attempt stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import torch

from clip_pkg.atomic import remove_leftovers
from clip_pkg.checkpoint import load_checkpoint
from clip_pkg.engine.banner import configuration_lines
from clip_pkg.engine.cadence import Cadence
from clip_pkg.engine.console import FoldConsole
from clip_pkg.engine.early_stopping import BestEpoch
from clip_pkg.engine.environment import describe_environment
from clip_pkg.engine.epoch import EpochScores, Evaluation
from clip_pkg.engine.history import History
from clip_pkg.engine.optimisation import Diverged
from clip_pkg.engine.outputs import (
    BestModel,
    predictions,
    snapshot,
    write_best,
    write_exposure,
    write_latest,
)
from clip_pkg.engine.passes import FoldPasses
from clip_pkg.engine.ranks import ALONE, Ranks
from clip_pkg.engine.setup import FoldSetup, Side, set_up
from clip_pkg.engine.step_curves import StepCurves
from clip_pkg.engine.tensorboard import FoldCurves
from clip_pkg.errors import CheckpointError
from clip_pkg.losses.table import part_labels
from clip_pkg.metrics.classification import classification_metrics
from clip_pkg.metrics.units import history_scores
from clip_pkg.planning.tasks import FoldResult, FoldTask, Identity
from clip_pkg.precision import flushed_denormals


class Interrupted(Exception):
    """A stop was asked for; the fold goes on from its latest checkpoint next time."""


class Stop(Protocol):
    """True once the fold should end early."""

    def __bool__(self) -> bool: ...


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
    with flushed_denormals():
        return _train_fold(
            task, device=device, device_id=device_id, stream=stream, stop=stop, ranks=ranks
        )


def follow_fold(task: FoldTask, *, device: torch.device, ranks: Ranks) -> None:
    """Do what every rank but the first does: compute parts of what the first one asks for."""
    with flushed_denormals():
        setup, _, _ = _ready(task, device, ranks)
        with closing(setup.pixels):
            FoldPasses(setup).follow()


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
    setup, source, state = _ready(task, device, ranks)
    console = FoldConsole(
        stream,
        task.paths.progress,
        epochs=setup.config.epochs,
        labels=part_labels(setup.config.loss, setup.config.aux_losses),
    )
    console.banner("TRAINING CONFIGURATION", configuration_lines(setup, device_id))
    for notice in setup.notices:
        console.line(f"NOTE: {notice}")
    training = FoldTraining(setup, console, stop)
    if state is not None:
        training.restore(state)
        console.line(f"Going on after epoch {state['epoch']} from {source}")
    with closing(setup.pixels):
        training.run()
        result = training.result(time.monotonic() - started)
    console.line(
        f"Fold {task.fold} done: best epoch {result.best_epoch} "
        f"({setup.config.early_stopping_monitor}), last epoch {result.last_epoch}, "
        f"{result.seconds:.1f} s"
    )
    return result


def _ready(
    task: FoldTask, device: torch.device, ranks: Ranks
) -> tuple[FoldSetup, Path | None, dict[str, Any] | None]:
    """Build a fold as its checkpoint left it; also returns the checkpoint and what it holds."""
    torch.backends.cudnn.benchmark = True
    source = _checkpoint_to_continue(task)
    state = None if source is None else _matching_state(task, source)
    setup = set_up(task, device, None if state is None else state["model"], ranks)
    if state is not None:
        setup.objective.load_state_dict(state["objective"])
        # A finished fold has none; all that can be missing then is the result file.
        if state["optimisation"] is not None:
            setup.optimisation.load_state_dict(state["optimisation"])
    return setup, source, state


def _checkpoint_to_continue(task: FoldTask) -> Path | None:
    """The fold's own latest checkpoint, or else the one that the user named."""
    if task.paths.checkpoint_latest.exists():
        return task.paths.checkpoint_latest
    return None if task.resume_from is None else Path(task.resume_from)


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


class FoldTraining:
    """State of a fold between epochs, and what happens in one."""

    def __init__(self, setup: FoldSetup, console: FoldConsole, stop: Stop) -> None:
        self._setup = setup
        self._passes = FoldPasses(setup)
        self._console = console
        self._stop = stop
        config = setup.config
        self._history = History()
        self._best = BestEpoch(
            config.monitor_sign, config.early_stopping_patience, config.early_stopping_min_delta
        )
        self._untrained: dict[str, float | None] = {}
        self._pending: BestModel | None = None
        self._last: Evaluation | None = None
        self._train_seconds = 0.0
        self._cadence = Cadence()
        prefix = "inner_" if setup.inner is not None else ""
        self._monitor = prefix + config.early_stopping_monitor

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a checkpoint; the setup has its part of it already."""
        self._history = History(state["history"])
        self._best = BestEpoch(**state["best"])
        self._untrained = state["untrained"]
        self._train_seconds = state["train_seconds"]

    # --- the epochs

    def run(self) -> None:
        """Train the epochs that are left, until the last or until patience runs out."""
        setup, config = self._setup, self._setup.config
        place = (setup.task.config_paths.tensorboard, setup.task.fold)
        labels = part_labels(config.loss, config.aux_losses)
        curves = FoldCurves(*place, labels, self._history)
        steps = StepCurves(
            *place,
            labels,
            total_steps=len(setup.train) * config.epochs,
            done=len(setup.train) * self._history.epochs,
        )
        with curves, steps:
            if not self._untrained:
                self._untrained = self._scores("val", self._evaluate("val", epoch=0))
            while self._history.epochs < config.epochs and not self._best.should_stop:
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
        setup, config = self._setup, self._setup.config
        # The config's rate; towers and losses may have factors of their own on it.
        learning_rate = config.learning_rate * setup.optimisation.factor
        train = self._train(epoch, curves)
        trained = time.monotonic() - started
        self._train_seconds += trained
        inner = None if setup.inner is None else self._evaluate("inner", epoch=epoch)
        val = self._last = self._evaluate("val", epoch=epoch)
        row: dict[str, float | None] = {
            "train_loss": train.loss,
            "train_acc": 100 * train.accuracy,
            **self._loss_columns("train", train),
            **self._scores("val", val),
            **({} if inner is None else self._scores("inner_val", inner)),
            "learning_rate": learning_rate,
            "temperature": 1 / float(setup.model.logit_scale().detach()),
            "epoch_seconds": time.monotonic() - started,
            "train_images_per_second": len(setup.train) * config.batch_size / trained,
        }
        self._history.append(row)
        self._best = self._best.after(epoch, row[self._monitor])
        improved = self._best.epoch == epoch
        if improved:
            self._pending = snapshot(setup, epoch, row, val)
        self._history.write(setup.task.paths.history)
        self._console.epoch_lines(
            train,
            val.scores,
            row["val_mAP"],
            monitored=row[self._monitor],
            remark=f"Best epoch so far by {self._monitor}" if improved else "",
        )

    def _train(self, epoch: int, curves: StepCurves) -> EpochScores:
        steps = len(self._setup.train)
        progress = self._console.phase(
            "train", epoch=epoch, steps=steps, batch_size=self._setup.config.batch_size
        )

        def on_step(done: int, scores: Any) -> None:
            progress(done, scores)
            if self._stop and done < steps:
                raise Interrupted  # the epoch is repeated; what was pending is still pending

        started = time.monotonic()
        train = self._passes.train(epoch, on_output=curves.add, on_step=on_step)
        curves.flush()
        self._console.phase_done(
            "train", steps=steps, seconds=time.monotonic() - started, scores=train
        )
        return train

    def _evaluate(self, side: Side, *, epoch: int) -> Evaluation:
        steps = len(self._setup.side(side).batches)
        progress = self._console.phase(
            "val", epoch=epoch, steps=steps, batch_size=self._setup.config.batch_size
        )
        started = time.monotonic()
        evaluation = self._passes.evaluate(side, on_step=progress)
        if not np.isfinite(evaluation.probabilities).all():
            raise Diverged(f"the model's outputs are not finite after epoch {epoch}")
        if epoch > 0:
            self._console.phase_done(
                "val", steps=steps, seconds=time.monotonic() - started, scores=evaluation.scores
            )
        return evaluation

    def _loss_columns(self, prefix: str, scores: EpochScores) -> dict[str, float | None]:
        """Columns of the loss's parts, plain, weighted and as shares of the total; statistics."""
        weights = self._setup.objective.part_weights
        columns: dict[str, float | None] = {}
        for name, value in scores.parts.items():
            columns[f"{prefix}_{name}_loss"] = value
            if len(scores.parts) > 1:
                weighted = weights[name] * value
                columns[f"{prefix}_{name}_weighted"] = weighted
                columns[f"{prefix}_{name}_share"] = weighted / scores.loss if scores.loss else None
        return columns | {
            f"{prefix}_logits_{name}": value for name, value in scores.statistics.items()
        }

    def _scores(self, prefix: str, evaluation: Evaluation) -> dict[str, float | None]:
        """Columns of one evaluation: losses, then metrics; some in percent as in the log."""
        metrics = classification_metrics(evaluation.probabilities, evaluation.targets)
        columns: dict[str, float | None] = {f"{prefix}_loss": evaluation.scores.loss}
        columns |= self._loss_columns(prefix, evaluation.scores)
        return columns | {
            f"{prefix}_{name}": value for name, value in history_scores(metrics).items()
        }

    # --- files

    def _save(self, *, finished: bool = False) -> None:
        """Write the best model if it is new, then the latest state.

        In this order: a latest checkpoint never claims a best one that was not written.
        """
        started = time.monotonic()
        if self._pending is not None:
            write_best(self._setup, self._pending)
            self._pending = None
        epoch = self._history.epochs
        write_latest(
            self._setup,
            epoch=epoch,
            metrics=self._history.row(epoch),
            run_state={
                "history": self._history.columns,
                "best": vars(self._best),
                "untrained": self._untrained,
                "train_seconds": self._train_seconds,
            },
            finished=finished,
        )
        self._cadence.record(time.monotonic() - started)

    def result(self, seconds: float) -> FoldResult:
        """Write the files of the end and return what the fold achieved."""
        setup, paths = self._setup, self._setup.task.paths
        last_epoch = self._history.epochs
        if self._last is None:  # stopped between the last epoch and the result
            self._last = self._evaluate("val", epoch=last_epoch)
        predictions(setup, self._last).write(paths.predictions_last)
        self._history.write(paths.history)
        write_exposure(setup, last_epoch)
        columns = [name for name in self._history.columns if name.startswith("val_")]

        def scores(epoch: int) -> dict[str, float | None]:
            row = self._history.row(epoch)
            return {name: row[name] for name in columns}

        return FoldResult(
            identity=setup.task.identity,
            fold=setup.task.fold,
            n_train=len(setup.train_indices),
            n_val=setup.val.size,
            best_epoch=self._best.epoch,
            last_epoch=last_epoch,
            stopped_early=last_epoch < setup.config.epochs,
            best=scores(self._best.epoch),
            last=scores(last_epoch),
            untrained=self._untrained,
            chosen_on="reported fold" if setup.inner is None else "inner validation split",
            device=str(setup.device),
            environment=describe_environment(setup.device, setup.precision, setup.ranks.size),
            seconds=seconds,
            train_seconds=self._train_seconds,
            peak_memory_bytes=(
                torch.cuda.max_memory_reserved(setup.device)
                if setup.device.type == "cuda"
                else None
            ),
            notices=list(setup.notices),
        )
