"""The epochs of a fold: train, look, remember the best, save; and what came out in the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import torch

from clip_pkg.losses.registry import part_labels
from clip_pkg.study.tasks import FoldResult
from clip_pkg.training.columns import evaluation_columns, test_columns
from clip_pkg.training.console import FoldConsole
from clip_pkg.training.early_stopping import BestEpoch
from clip_pkg.training.environment import describe_environment
from clip_pkg.training.epoch import EpochScores, Evaluation
from clip_pkg.training.history import History, Row
from clip_pkg.training.loss_scores import loss_columns
from clip_pkg.training.optimisation import Diverged
from clip_pkg.training.outputs import (
    BestModel,
    Cadence,
    predictions,
    snapshot,
    write_best,
    write_exposure,
    write_latest,
)
from clip_pkg.training.passes import FoldPasses
from clip_pkg.training.profiling import Unprofiled
from clip_pkg.training.setup import FoldSetup, Side
from clip_pkg.training.tensorboard import FoldCurves, StepCurves


class Interrupted(Exception):
    """A stop was asked for; the fold goes on from its latest checkpoint next time."""


class Stop(Protocol):
    """True once the fold should end early."""

    def __bool__(self) -> bool: ...


class FoldTraining:
    """State of a fold between epochs, and what happens in one."""

    def __init__(
        self, setup: FoldSetup, console: FoldConsole, stop: Stop, profiler: Unprofiled
    ) -> None:
        self._setup = setup
        self._profiler = profiler
        self._passes = FoldPasses(setup, profiler.phases)
        self._weights = setup.objective.part_weights
        self._notices = list(setup.notices)
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
        labels = part_labels(config.loss, config.aux_losses)
        curves = FoldCurves(setup.task.curves, labels, self._history)
        steps = StepCurves(
            setup.task.curves,
            labels,
            total_steps=len(setup.train) * config.epochs,
            done=len(setup.train) * self._history.epochs,
        )
        with curves, steps:
            if setup.val.size and not self._untrained:
                self._untrained = evaluation_columns(
                    "val", self._evaluate("val", epoch=0), self._weights
                )
            if self._goes_on:
                self._record()
            while self._goes_on:
                self._profiler.before_epoch(self._history.epochs + 1)
                self._epoch(self._history.epochs + 1, steps)
                curves.add(self._history)
                if self._stop:
                    self._save()
                    raise Interrupted
                if self._cadence.due():
                    self._save()
        self._save(finished=True)
        self._profiler.finish(self._history.epochs)

    @property
    def _goes_on(self) -> bool:
        return self._history.epochs < self._setup.config.epochs and not self._best.should_stop

    def _record(self) -> None:
        told = self._passes.record(self._history.epochs + 1)
        if told is not None:
            self._notices.append(told)
            self._console.line(f"NOTE: {told}")

    def _epoch(self, epoch: int, curves: StepCurves) -> None:
        started = time.monotonic()
        setup, config = self._setup, self._setup.config
        # The config's rate; towers and losses may have factors of their own on it.
        learning_rate = config.learning_rate * setup.optimisation.factor
        train = self._train(epoch, curves)
        trained = time.monotonic() - started
        self._train_seconds += trained
        scores = self._validate(epoch) if setup.val.size else {}
        row: dict[str, float | None] = {
            "train_loss": train.loss,
            "train_acc": 100 * train.accuracy,
            **loss_columns("train", train, self._weights),
            **scores,
            "learning_rate": learning_rate,
            "temperature": 1 / float(setup.model.logit_scale().detach()),
            "epoch_seconds": time.monotonic() - started,
            "train_images_per_second": len(setup.train) * config.batch_size / trained,
        }
        self._history.append(row)
        improved = self._last is not None and self._is_best(epoch, row, self._last)
        self._history.write(setup.task.paths.history)
        self._console.epoch_lines(
            train,
            None if self._last is None else self._last.scores,
            row.get("val_mAP"),
            monitored=row.get(self._monitor),
            remark=f"Best epoch so far by {self._monitor}" if improved else "",
        )

    def _validate(self, epoch: int) -> dict[str, float | None]:
        """Look at the held-out images; returns the columns of what was seen."""
        inner = None if self._setup.inner is None else self._evaluate("inner", epoch=epoch)
        val = self._last = self._evaluate("val", epoch=epoch)
        with self._profiler.phases("validation"):
            scores = evaluation_columns("val", val, self._weights)
            if inner is not None:
                scores |= evaluation_columns("inner_val", inner, self._weights)
        return scores

    def _is_best(self, epoch: int, row: Row, val: Evaluation) -> bool:
        """Whether the epoch is the best so far; then its model is kept."""
        self._best = self._best.after(epoch, row[self._monitor])
        if self._best.epoch != epoch:
            return False
        with self._profiler.phases("checkpoint"):
            self._pending = snapshot(self._setup, epoch, row, val)
        return True

    def _train(self, epoch: int, curves: StepCurves) -> EpochScores:
        steps = len(self._setup.train)
        progress = self._console.phase(
            "train", epoch=epoch, steps=steps, batch_size=self._setup.config.batch_size
        )

        def on_step(done: int, scores: Any) -> None:
            progress(done, scores)
            self._profiler.after_step(epoch, done)
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
        phase = "test" if side == "test" else "val"
        progress = self._console.phase(
            phase, epoch=epoch, steps=steps, batch_size=self._setup.config.batch_size
        )
        started = time.monotonic()
        evaluation = self._passes.evaluate(side, on_step=progress)
        if not np.isfinite(evaluation.probabilities).all():
            raise Diverged(f"the model's outputs are not finite after epoch {epoch}")
        if epoch > 0:
            self._console.phase_done(
                phase, steps=steps, seconds=time.monotonic() - started, scores=evaluation.scores
            )
        return evaluation

    # --- files

    def _save(self, *, finished: bool = False) -> None:
        """Write the best model if it is new, then the latest state.

        In this order: a latest checkpoint never claims a best one that was not written.
        """
        with self._profiler.phases("checkpoint"):
            self._write(finished=finished)

    def _write(self, *, finished: bool) -> None:
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
        last_epoch, best_epoch = self._history.epochs, self._best.epoch or None
        if setup.val.size:
            # There is no last look where it stopped between the last epoch and the result.
            last = self._last or self._evaluate("val", epoch=last_epoch)
            predictions(setup.val, last).write(paths.predictions_last)
        self._history.write(paths.history)
        write_exposure(setup, last_epoch)
        test = self._test(best_epoch or last_epoch)
        columns = [name for name in self._history.columns if name.startswith("val_")]

        def scores(epoch: int) -> dict[str, float | None]:
            row = self._history.row(epoch)
            return {name: row[name] for name in columns}

        return FoldResult(
            identity=setup.task.identity,
            fold=setup.task.fold,
            n_train=len(setup.train_indices),
            n_val=setup.val.size,
            best_epoch=best_epoch,
            last_epoch=last_epoch,
            stopped_early=last_epoch < setup.config.epochs,
            best={} if best_epoch is None else scores(best_epoch),
            last=scores(last_epoch),
            untrained=self._untrained,
            chosen_on=self._chosen_on(),
            device=str(setup.device),
            environment=describe_environment(setup.device, setup.precision, setup.ranks.size),
            seconds=seconds,
            train_seconds=self._train_seconds,
            peak_memory_bytes=(
                torch.cuda.max_memory_reserved(setup.device)
                if setup.device.type == "cuda"
                else None
            ),
            notices=self._notices,
            n_test=0 if setup.test is None else setup.test.size,
            test=test,
        )

    def _test(self, epoch: int) -> dict[str, float | None]:
        """Look at the test images, once, with the model of `epoch`; nothing is trained after it."""
        setup, paths = self._setup, self._setup.task.paths
        if setup.test is None:
            return {}
        if epoch != self._history.epochs:
            found = self._passes.go_back(paths.checkpoint_best)
            assert found == epoch, f"the best checkpoint is of epoch {found}, not {epoch}"
        evaluation = self._evaluate("test", epoch=epoch)
        predictions(setup.test, evaluation).write(paths.test_predictions)
        scores = test_columns(evaluation, self._weights)
        self._console.test_line(evaluation.scores, scores["test_mAP"], epoch)
        if not setup.config.save_best:
            paths.checkpoint_best.unlink(missing_ok=True)
        return scores

    def _chosen_on(self) -> Literal["reported fold", "inner validation split", "no image"]:
        if not self._setup.val.size:
            return "no image"
        return "reported fold" if self._setup.inner is None else "inner validation split"
