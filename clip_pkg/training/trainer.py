"""The trainer: epochs, checkpoints, early stopping, history and result of any training.

A training is a fold, a refit or a pre-training. They differ in what learns: the `Learner`.
"""

from __future__ import annotations

import os
import time
import uuid
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TextIO

import torch

from clip_pkg.base.errors import CheckpointError, DamagedFile, UserError
from clip_pkg.base.files import remove_leftovers
from clip_pkg.base.paths import FoldPaths
from clip_pkg.base.reading import check_archive
from clip_pkg.config.load import dump_canonical
from clip_pkg.config.loss_blocks import TermLabel
from clip_pkg.data.pixel_sources import PixelSource
from clip_pkg.losses.contract import LossOutput
from clip_pkg.models.checkpoint import load_checkpoint, save_checkpoint
from clip_pkg.models.precision import Precision
from clip_pkg.study.epoch_predictions import check_epochs, mark_of_epochs
from clip_pkg.study.fold_files import AGAIN, check_marks, final_files, marks_of
from clip_pkg.study.identity import identity_from_json
from clip_pkg.study.predictions import read_predictions
from clip_pkg.study.progress import read_progress
from clip_pkg.study.tasks import FoldResult, PretrainTask, Task
from clip_pkg.training.console import Console
from clip_pkg.training.early_stopping import BestEpoch
from clip_pkg.training.environment import describe_environment
from clip_pkg.training.epoch import Fetch, OnStep, train_epoch
from clip_pkg.training.history import Columns, History
from clip_pkg.training.inputs import REMEDY
from clip_pkg.training.loss_scores import MeanScores, RunningScores
from clip_pkg.training.optimisation import Optimisation
from clip_pkg.training.profiling import FoldProfiler, Phases, unmeasured
from clip_pkg.training.ranks import ALONE, Ranks
from clip_pkg.training.tensorboard import FoldCurves, StepCurves

# Share of the training time that checkpoints may take: small models are saved every epoch, large
# ones less often, so that writing never dominates and a crash costs little.
CHECKPOINT_TIME_SHARE = 0.05
LOST = "was removed or replaced while it was used"
DAMAGE = (UserError, OSError, ValueError, zipfile.BadZipFile)  # what damaged files raise
TRAIN = "train"  # order to the other ranks; further ones belong to the learner


class Interrupted(Exception):
    """A stop was requested; the training resumes from its latest checkpoint next time."""


class Stop(Protocol):
    """True once the training should end early."""

    def __bool__(self) -> bool: ...


class Batches(Protocol):
    """Training batches; each epoch is a function of its number."""

    batch_size: int

    def __len__(self) -> int: ...

    def epoch(self, number: int, /) -> Iterable[Any]: ...


class Cadence:
    """When the next checkpoint is due, given the time that the last one took."""

    def __init__(self) -> None:
        self._cost = 0.0
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._cost / CHECKPOINT_TIME_SHARE

    def record(self, seconds: float) -> None:
        """Note that writing took `seconds` and has just finished."""
        self._cost = seconds
        self._saved_at = time.monotonic()


class Learner(ABC):
    """The part of a training that depends on its kind: batches, step, evaluation, state.

    labels, weights: of the loss's terms. peak_rate: learning rate before the schedule.
    curve_tags: TensorBoard tags of history columns that are neither losses nor scores.
    monitor: history column that chooses the best epoch; None if no image is held out.
    """

    title: ClassVar[str]
    curve_tags: ClassVar[Mapping[str, str]] = {}
    batches: Batches
    optimisation: Optimisation
    labels: Mapping[str, TermLabel]
    weights: Mapping[str, float]
    peak_rate: float
    monitor: str | None = None

    @abstractmethod
    def settings(self, device: str) -> list[tuple[str, str]]:
        """`(name, value)` pairs of the banner; device: display name, with the precision."""

    @abstractmethod
    def shared_settings(self) -> list[tuple[str, str]]:
        """Those that all tasks of a config share, with their effective values."""

    @abstractmethod
    def start_epoch(self, epoch: int) -> None:
        """Enter training mode and seed the random generators from the epoch."""

    @abstractmethod
    def train_on(self, batch: Any, running: RunningScores) -> LossOutput:
        """Take one step and add its scores to `running`."""

    @abstractmethod
    def evaluate_untrained(self, console: Console) -> Columns:
        """Scores before the first step; empty if nothing is evaluated."""

    @abstractmethod
    def evaluate(self, epoch: int, console: Console) -> Columns:
        """History columns of the epoch besides those of the training loss."""

    @abstractmethod
    def log_epoch(
        self, console: Console, train: MeanScores, row: Columns, *, improved: bool
    ) -> None:
        """Write the log lines of an evaluated epoch."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Contents of the latest checkpoint besides the trainer's."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a checkpoint, whose model weights are already loaded."""

    @abstractmethod
    def finish(self, console: Console, history: History, best_epoch: int | None) -> dict[str, Any]:
        """Write the final files; returns fields of `FoldResult`; its notices are added."""

    def prepare(self, console: Console, stop: Stop) -> None:
        """Compute what all epochs share."""
        del console, stop

    def before_first_step(self, epoch: int) -> str | None:
        """Prepare the training step; returns a notice. epoch: the next one."""
        del epoch
        return None

    def extra_columns(self) -> Columns:
        """History columns between the learning rate and the speed."""
        return {}

    def keep_best(self, epoch: int, row: Columns) -> None:
        """Copy the model, because the epoch is the best so far."""
        del epoch, row

    def write_best(self) -> None:
        """Write the copy of `keep_best` unless it was written before."""
        return

    def follow(self, order: str, argument: Any) -> None:
        """Execute an order of the first rank other than training an epoch."""
        raise AssertionError(f"unknown order {order} {argument}")


@dataclass(eq=False, kw_only=True)
class Trainer:
    """Trains a learner from its task, or its checkpoint, to its result.

    pixels: closed at the end. notices: shown beside the result. remarks: for the log only.
    started: `time.monotonic` at the start of building.
    """

    task: Task
    learner: Learner
    device: torch.device
    precision: Precision
    pixels: Sequence[PixelSource]
    started: float
    ranks: Ranks = ALONE
    profiler: FoldProfiler | None = None
    notices: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.task.config
        self._phases: Phases = unmeasured if self.profiler is None else self.profiler.phases
        self._history = History()
        self._best = BestEpoch(
            config.monitor_sign, config.early_stopping_patience, config.early_stopping_min_delta
        )
        self._untrained: Columns = {}
        # Of earlier attempts: all their seconds, and those of the epochs that were restored.
        self._earlier_seconds = self._restored_seconds = 0.0
        self._train_seconds = 0.0  # of all attempts, up to `_training_since`
        self._training_since: float | None = None  # `time.monotonic`; None between training epochs
        self._cadence = Cadence()

    def resume(self, state: Mapping[str, Any]) -> None:
        """Restore a checkpoint, whose model weights the learner was built with."""
        self._history = History(state["history"])
        self._untrained = state["untrained"]
        self._train_seconds = state["train_seconds"]
        # Missing in checkpoints of earlier revisions.
        self._earlier_seconds = state.get("seconds", self._train_seconds)
        epochs = self._history.columns.get("epoch_seconds", [])
        self._restored_seconds = sum(seconds or 0.0 for seconds in epochs)
        if "best" in state:
            self._best = BestEpoch(**state["best"])
        self.learner.load_state(state)
        # A finished training has no optimiser; only its result file can be missing then.
        if state["optimisation"] is not None:
            self.learner.optimisation.load_state_dict(state["optimisation"])
        source = self.task.checkpoint_to_resume
        self.remarks.append(f"Resumed after epoch {state['epoch']} from {source}")

    @property
    def is_resumed(self) -> bool:
        return self._history.epochs > 0

    def close(self) -> None:
        """Close the files and processes of the pixel sources."""
        for pixels in self.pixels:
            pixels.close()

    def run(self, stream: TextIO, device_name: str, stop: Stop) -> FoldResult:
        """Train and return the result; writes every file except the result itself.

        stream: of the log. device_name: the user's name for the device.

        Raises Interrupted once `stop` is true, Diverged when training becomes NaN.
        """
        task, learner = self.task, self.learner
        root = task.paths.root
        try:
            root.mkdir(exist_ok=True)
            # Open, so that no other folder gets its inode.
            self._folder = os.open(root, os.O_RDONLY)
        except FileNotFoundError:
            raise DamagedFile(root, LOST, REMEDY) from None
        remove_leftovers(root)
        if (earlier := read_progress(task.paths.progress)) is not None:
            # An attempt that was killed has spent more than its checkpoint knows.
            self._earlier_seconds = max(self._earlier_seconds, earlier.seconds)
            self._train_seconds = max(self._train_seconds, earlier.train_seconds)
        console = Console(
            stream,
            task.paths.progress,
            epochs=task.config.epochs,
            labels=learner.labels,
            epoch=self._history.epochs,
            spent=self._spent,
        )
        try:
            return self._run(console, device_name, stop)
        except BaseException as error:
            if isinstance(error, Exception):
                self._check_folder()  # whatever has failed because of that
            with suppress(OSError):  # the disk may be full
                console.save_progress()
            raise
        finally:
            os.close(self._folder)

    def _run(self, console: Console, device_name: str, stop: Stop) -> FoldResult:
        task, learner, on = self.task, self.learner, self.device
        console.save_progress()
        device = f"{device_name} ({self.precision}), process {os.getpid()}"
        shared = learner.shared_settings() if console.is_new_log else []
        console.banner(learner.title, [*learner.settings(device), *shared])
        for notice in self.notices:
            console.line(f"NOTE: {notice}")
        self._make_remarks(console)
        learner.prepare(console, stop)
        with self.profiler or nullcontext():
            self._train(console, stop)
        self._history.write(task.paths.history, final=True)
        best_epoch = self._best.epoch or None
        fields = learner.finish(console, self._history, best_epoch)
        self._make_remarks(console)
        self._check_folder()
        result = FoldResult(
            identity=task.identity,
            fold=task.fold,
            best_epoch=best_epoch,
            last_epoch=self._history.epochs,
            stopped_early=self._history.epochs < task.config.epochs,
            untrained=self._untrained,
            device=str(on),
            environment=describe_environment(on, self.precision, self.ranks.size),
            seconds=self._spent()[0],
            undisturbed_seconds=time.monotonic() - self.started + self._restored_seconds,
            notices=[*self.notices, *fields.pop("notices", [])],
            train_seconds=self._train_seconds,
            peak_memory_bytes=torch.cuda.max_memory_reserved(on) if on.type == "cuda" else None,
            files=marks_of(final_files(task.paths)),
            **fields,
        )
        best = f"best epoch {best_epoch} ({learner.monitor}), " if learner.monitor else ""
        console.line(
            f"{task.title.capitalize()} done: {best}last epoch {result.last_epoch}, "
            f"{result.seconds:.1f} s"
        )
        return result

    def _make_remarks(self, console: Console) -> None:
        """Write the lines that have come up for the log."""
        while self.remarks:
            console.line(self.remarks.pop(0))

    def _check_folder(self) -> None:
        """Raise DamagedFile if the folder was removed, moved away or replaced by another one."""
        root = self.task.paths.root
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._folder), root.stat()):
                return
        raise DamagedFile(root, LOST, REMEDY)

    def _spent(self) -> tuple[float, float]:
        """Seconds of all attempts so far, on everything and on training steps."""
        now = time.monotonic()
        training = 0.0 if self._training_since is None else now - self._training_since
        return self._earlier_seconds + now - self.started, self._train_seconds + training

    def follow(self) -> None:
        """Execute the orders of the first rank, until an empty one."""
        for order, argument in self.ranks.orders():
            if order == TRAIN:
                self._train_epoch(argument)
            else:
                self.learner.follow(order, argument)

    def _train(self, console: Console, stop: Stop) -> None:
        """Train the remaining epochs, until the last or until patience runs out."""
        task, learner, history, profiler = self.task, self.learner, self._history, self.profiler
        total, per_epoch = task.config.epochs, len(learner.batches)
        with suppress(OSError):  # curves are left out then
            task.curves.parent.mkdir(exist_ok=True)
        curves = FoldCurves(task.curves, learner.labels, history, learner.curve_tags)
        steps = StepCurves(
            task.curves,
            learner.labels,
            total_steps=per_epoch * total,
            done=per_epoch * history.epochs,
        )
        with curves, steps:
            if not self._untrained:
                self._untrained = learner.evaluate_untrained(console)
            if not self._is_done:
                notice = learner.before_first_step(history.epochs + 1)
                if notice is not None:
                    self.notices.append(notice)
                    console.line(f"NOTE: {notice}")
            while not self._is_done:
                if profiler is not None:
                    profiler.before_epoch(history.epochs + 1)
                self._epoch(history.epochs + 1, steps, console, stop)
                curves.add()
                self._make_remarks(console)
                if stop:
                    self._save()
                    raise Interrupted
                if self._cadence.due():
                    self._save()
        self._save(finished=True)
        if profiler is not None:
            for line in profiler.finish(history.epochs):
                console.line(line)

    @property
    def _is_done(self) -> bool:
        return self._history.epochs >= self.task.config.epochs or self._best.should_stop

    def _epoch(self, epoch: int, curves: StepCurves, console: Console, stop: Stop) -> None:
        """Train and evaluate one epoch and log it."""
        learner, batches = self.learner, self.learner.batches
        started, steps = time.monotonic(), len(batches)
        learning_rate = learner.peak_rate * learner.optimisation.factor
        progress = console.phase("train", epoch=epoch, steps=steps, batch_size=batches.batch_size)

        def on_step(done: int, output: LossOutput, fetch: Fetch) -> None:
            curves.add(output)
            progress(done, fetch)
            if self.profiler is not None:
                self.profiler.after_step(epoch, done)
            if stop and done < steps:
                raise Interrupted  # the epoch is repeated; an unsaved best model stays unsaved

        self.ranks.announce(TRAIN, epoch)
        self._training_since = started
        train = self._train_epoch(epoch, on_step)
        curves.flush()
        trained = time.monotonic() - started
        console.phase_done("train", steps=steps, seconds=trained, scores=train)
        self._train_seconds, self._training_since = self._train_seconds + trained, None
        row: Columns = {"train_loss": train.loss}
        if train.accuracy is not None:
            row["train_acc"] = 100 * train.accuracy
        row |= train.columns("train", learner.weights)
        row |= learner.evaluate(epoch, console)
        row["learning_rate"] = learning_rate
        row |= learner.extra_columns()
        row["epoch_seconds"] = time.monotonic() - started
        row["train_images_per_second"] = steps * batches.batch_size / trained
        self._history.append(row)
        improved = False
        if learner.monitor is not None:
            self._best = self._best.after(epoch, row[learner.monitor])
            improved = self._best.epoch == epoch
        if improved:
            with self._phases("checkpoint"):
                learner.keep_best(epoch, row)
        self._check_folder()
        self._history.write(self.task.paths.history)
        learner.log_epoch(console, train, row, improved=improved)

    def _train_epoch(self, epoch: int, on_step: OnStep | None = None) -> MeanScores:
        learner = self.learner
        learner.start_epoch(epoch)
        return train_epoch(
            learner.train_on,
            learner.batches.epoch(epoch),
            learner.optimisation,
            device=self.device,
            phases=self._phases,
            on_step=on_step,
        )

    def _save(self, *, finished: bool = False) -> None:
        """Write the best model if it is new, then the latest state.

        In this order: a latest checkpoint never refers to a best one that was not written. A
        finished training is never resumed, so its optimiser, two thirds of the file, is left out.
        """
        started, task, learner = time.monotonic(), self.task, self.learner
        self._check_folder()
        with self._phases("checkpoint"):
            learner.write_best()
            save_checkpoint(
                task.paths.checkpoint_latest,
                {
                    **identification(task),
                    "epoch": self._history.epochs,
                    "metrics": self._history.row(self._history.epochs),
                    "history": self._history.columns,
                    "best": vars(self._best),
                    "untrained": self._untrained,
                    "seconds": self._spent()[0],
                    "train_seconds": self._train_seconds,
                    "files": marks_of([task.paths.predictions, task.paths.checkpoint_best]),
                    "epoch_predictions": mark_of_epochs(task.paths),
                    "optimisation": None if finished else learner.optimisation.state_dict(),
                    **learner.state(),
                },
            )
        self._cadence.record(time.monotonic() - started)


def identification(task: Task) -> dict[str, Any]:
    """Entries of a checkpoint that identify its training."""
    return {
        "identity": asdict(task.identity),
        "fold": task.fold,
        "config": dump_canonical(task.config),
    }


def state_to_resume(task: Task, notices: list[str], remarks: list[str]) -> dict[str, Any] | None:
    """Content of the checkpoint that a task resumes from; None if it starts.

    A damaged checkpoint of its own is not used: starting anew gives the same numbers. The best
    checkpoint could not replace it, because it has no optimiser. notices, remarks: receive a
    sentence each then, for the result and for the log.

    Raises CheckpointError if a checkpoint that the user named is damaged, or of another run.
    """
    latest, named = task.paths.checkpoint_latest, task.checkpoint_to_resume
    if named == latest:
        try:
            state = _state_in(latest, task)
            _check_files(task, state)
            return state
        except DAMAGE as problem:
            if latest.is_dir():  # in the way of the next one
                latest.rename(latest.with_name(f"{latest.name}.{uuid.uuid4().hex}"))
            notices.append(
                f"The training started anew, because {latest.name} or the files of the best epoch "
                "were damaged"
            )
            remarks.append(f"What was damaged: {problem}")
            named = None if isinstance(task, PretrainTask) else task.resume_from
    return None if named is None else _state_in(named, task)


def _state_in(source: Path, task: Task) -> dict[str, Any]:
    """Read a checkpoint of this task, or of the same one in another run."""
    state = load_checkpoint(source)
    if not {"identity", "fold", "history", "optimisation"} <= set(state):
        raise CheckpointError(f"{source} is not a checkpoint that training resumes from")
    differences = task.identity.differences(identity_from_json(state["identity"]))
    if state["fold"] != task.fold:
        differences.append(f"fold ({state['fold']} instead of {task.fold})")
    if differences:
        raise CheckpointError(
            f"{source} belongs to another run: its {', '.join(differences)} differ; use the "
            "settings it was made with, or start a new run without it"
        )
    return state


def _best_is_ahead(paths: FoldPaths, state: Mapping[str, Any]) -> bool:
    """Whether the files of the best epoch are of one that follows this checkpoint.

    They are written before the next checkpoint. After a kill between the two, the epoch is repeated
    and writes the same files again. Without a best model, predictions that can be read are taken
    for those of a later epoch.
    """
    if paths.checkpoint_best.exists():
        with suppress(CheckpointError):
            return int(load_checkpoint(paths.checkpoint_best).get("epoch", 0)) > int(state["epoch"])
        return False
    if paths.checkpoint_best.name in state["files"]:
        return False
    read_predictions(paths.predictions)
    return True


def _check_files(task: Task, state: Mapping[str, Any]) -> None:
    """Check the files of earlier epochs, which are not written again. Raises DamagedFile."""
    paths = task.paths
    if "files" in state:
        try:
            check_marks(paths.root, state["files"])
        except DamagedFile:
            if not _best_is_ahead(paths, state):
                raise
        check_epochs(paths, state["epoch_predictions"])
        return
    if paths.result.exists():  # of an earlier revision; its result was refused
        raise DamagedFile(paths.checkpoint_latest, "cannot be trusted", AGAIN)
    if isinstance(task, PretrainTask) or not state.get("best", {}).get("epoch"):
        return
    read_predictions(paths.predictions)
    if task.config.save_best or task.test_manifest_file is not None:
        check_archive(paths.checkpoint_best)
