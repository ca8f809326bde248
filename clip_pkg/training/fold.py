"""The learner of a fold or a refit: an image–text model and its objective.

Legend: N images of the manifest, C classes.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_pkg.base.files import write_text
from clip_pkg.base.spreadsheet import escape_cell
from clip_pkg.config.loss_blocks import term_labels
from clip_pkg.data.batches import Batch, EvalBatches, TrainBatches
from clip_pkg.data.sampling import derive_seed
from clip_pkg.losses.contract import LossOutput
from clip_pkg.metrics.ranking import top_k_accuracy
from clip_pkg.models.checkpoint import load_checkpoint, save_checkpoint
from clip_pkg.models.classifier import class_features, evaluation_mode
from clip_pkg.study.class_texts import ClassTexts
from clip_pkg.study.epoch_predictions import MAX_VALUES, append_epoch, compress_epochs
from clip_pkg.study.manifest import Manifest
from clip_pkg.study.predictions import Predictions
from clip_pkg.study.tasks import FoldTask, ModelTask
from clip_pkg.training.banner import loss_lines, setting_lines
from clip_pkg.training.console import Console
from clip_pkg.training.cuda_graph import (
    RecordedStep,
    Unrecordable,
    obstacle,
    pays,
    recorder_for,
    with_recording,
)
from clip_pkg.training.epoch import Evaluation, evaluate
from clip_pkg.training.frozen_features import FeatureRows, Unchanged
from clip_pkg.training.history import Columns, History
from clip_pkg.training.loss_scores import MeanScores, RunningScores
from clip_pkg.training.optimisation import WARMUP_SHARE, Diverged
from clip_pkg.training.ranks import ALONE, Ranks
from clip_pkg.training.step import TrainingStep
from clip_pkg.training.trainer import Interrupted, Learner, Stop, identification

EVALUATE, RESTORE = "evaluate", "restore"  # orders to the other ranks
IN_BANNER_ALREADY = frozenset(
    {"name", "loss", "aux_losses", "image_encoder_name", "text_encoder_name"}
)

SplitName: TypeAlias = Literal["val", "inner", "test"]


@dataclass(frozen=True)
class EvalSplit:
    """Evaluated images of a manifest, and the order in which their loss is computed.

    With several ranks, `batches` are those of this rank's shard.
    """

    manifest: Manifest
    batches: EvalBatches
    loss_order: Tensor

    @property
    def size(self) -> int:
        """Number of images."""
        return int(self.loss_order.numel())

    def predictions(self, evaluation: Evaluation) -> Predictions:
        """An evaluation with the names of its images and classes."""
        return Predictions(
            classes=self.manifest.classes,
            paths=tuple(self.manifest.paths[index] for index in evaluation.index),
            targets=evaluation.targets,
            probabilities=evaluation.probabilities,
        )


@dataclass(eq=False)
class FoldLearner(Learner):
    """An image–text model, trained on some images and evaluated on others.

    val: the held-out images, none in a refit. inner: chooses the epoch instead of `val`, if the
    config has an inner split. test: evaluated once, at the end. train_indices: int64, positions of
    the training images in the manifest. store_size: pixels of the stored squares. feature_batches:
    all images of the fold, if a frozen encoder computes their features once.
    """

    title: ClassVar[str] = "TRAINING CONFIGURATION"

    task: ModelTask
    step: TrainingStep
    batches: TrainBatches
    val: EvalSplit
    inner: EvalSplit | None
    test: EvalSplit | None
    manifest: Manifest
    texts: ClassTexts
    train_indices: NDArray[np.int64]
    store_size: int
    device: torch.device
    ranks: Ranks = ALONE
    feature_batches: EvalBatches | None = None
    _take: TrainingStep | RecordedStep = field(init=False)
    # Contents of the best checkpoint and predictions, until they are written.
    _best: tuple[dict[str, Any], Evaluation] | None = field(init=False, default=None)
    _last: Evaluation | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        config = self.task.config
        self.model, self.objective = self.step.model, self.step.objective
        self.optimisation = self.step.optimisation
        self.labels = term_labels([config.loss, *config.aux_losses])
        self.weights = self.objective.term_weights
        self.peak_rate = config.learning_rate  # towers and losses may have factors of their own
        self._take = self.step
        if self.val.size:
            prefix = "inner_" if self.inner is not None else ""
            self.monitor = prefix + config.early_stopping_monitor

    # --- training

    def start_epoch(self, epoch: int) -> None:
        def seed(stream: str) -> int:
            return derive_seed(self.task.config.random_state, self.task.fold, epoch, stream)

        torch.manual_seed(seed("layers"))  # dropout and the like
        self.step.prompt_generator.manual_seed(seed("prompts"))
        self.step.negatives_generator.manual_seed(seed("negatives"))
        self.model.train()
        self.objective.train()
        self.objective.start_epoch((epoch - 1) / self.task.config.epochs)

    def train_on(self, batch: Batch, running: RunningScores) -> LossOutput:
        outcome = self._take(batch)
        correct = (outcome.logits.argmax(dim=1) == outcome.targets).sum()
        running.add(outcome.output, len(outcome.targets), correct)
        return outcome.output

    def prepare(self, console: Console, stop: Stop) -> None:
        """Compute the features of a frozen image encoder; batches consist of these afterwards."""
        batches = self.feature_batches
        if batches is None:
            return
        started = time.monotonic()
        progress = console.phase("features", steps=len(batches), batch_size=batches.batch_size)
        index, features = [], []
        with torch.no_grad(), self.step.precision.autocast():
            for done, batch in enumerate(batches, start=1):
                features.append(self.model.image_encoder(batch.images))
                index.append(batch.index)
                progress(done)
                if stop:
                    raise Interrupted  # the features are computed again next time
        table, positions = torch.cat(features), torch.cat(index).cpu().numpy()
        rows = np.full(len(self.manifest.labels), -1)
        rows[positions] = np.arange(len(positions))
        source, views = FeatureRows(table, rows), Unchanged(self.task.config.img_size)
        self.batches = self.batches.of(source, views)
        self.val = replace(self.val, batches=self.val.batches.of(source, views))
        if self.inner is not None:
            self.inner = replace(self.inner, batches=self.inner.batches.of(source, views))
        console.line(
            f"The frozen image encoder computed the features of {len(batches.indices)} images once "
            f"({time.monotonic() - started:.1f} s); every epoch uses them."
        )

    def before_first_step(self, epoch: int) -> str | None:
        """Record the step as a CUDA graph, if the config asks for it."""
        config = self.task.config
        if config.cuda_graphs is False:
            return None
        reason = obstacle(
            self.step,
            config,
            device=self.device,
            n_train=len(self.train_indices),
            profiles=self.task.profile,
        )
        is_useful = reason is None and pays(config, len(self.batches) * config.epochs)
        if config.cuda_graphs == "auto" and not is_useful:
            return None
        if reason is None:
            recorder = recorder_for(self.device, [self.step.negatives_generator])
            assert recorder is not None, "that would be an obstacle"
            self.start_epoch(epoch)  # restarted by the training of this epoch
            batch = next(self.batches.epoch(epoch))
            try:
                self._take = with_recording(self.step, batch, recorder)
            except Unrecordable as error:
                reason = str(error)
            else:
                return (
                    "The training step was recorded and replayed as a CUDA graph, which can change "
                    "its numbers by rounding."
                )
        return f"The training step was not recorded as a CUDA graph: {reason}."

    # --- evaluation

    def evaluate_untrained(self, console: Console) -> Columns:
        if not self.val.size:
            return {}
        return self._evaluate("val", 0, console).columns("val", self.weights)

    def evaluate(self, epoch: int, console: Console) -> Columns:
        if not self.val.size:
            return {}
        inner = None if self.inner is None else self._evaluate("inner", epoch, console)
        self._last = self._evaluate("val", epoch, console)
        if self._keeps_epochs:
            append_epoch(self.task.paths, epoch, self._last.probabilities)
        with self.step.phases("validation"):
            columns = self._last.columns("val", self.weights)
            if inner is not None:
                columns |= inner.columns("inner_val", self.weights)
        return columns

    def extra_columns(self) -> Columns:
        return {"temperature": 1 / float(self.model.logit_scale().detach())}

    def _evaluate(self, name: SplitName, epoch: int, console: Console) -> Evaluation:
        """Evaluate a split, with a progress bar, on all ranks; epoch 0 is before training."""
        split = self._split(name)
        steps, phase = len(split.batches), "test" if name == "test" else "val"
        progress = console.phase(
            phase,
            epoch=None if name == "test" else epoch,  # of the best epoch, after the last one
            steps=steps,
            batch_size=self.task.config.batch_size,
        )
        started = time.monotonic()
        self.ranks.announce(EVALUATE, name)
        with self.step.phases("validation"):
            evaluation = self._scored(split, progress)
        if not np.isfinite(evaluation.probabilities).all():
            raise Diverged(f"the model's outputs are not finite after epoch {epoch}")
        if epoch > 0:
            seconds = time.monotonic() - started
            console.phase_done(phase, steps=steps, seconds=seconds, scores=evaluation.scores)
        return evaluation

    def _split(self, name: SplitName) -> EvalSplit:
        split = {"val": self.val, "inner": self.inner, "test": self.test}[name]
        assert split is not None, f"the config asks for no {name} images"
        return split

    def _scored(self, split: EvalSplit, on_step: Any = lambda done: None) -> Evaluation:
        return evaluate(
            self.model,
            self.objective,
            split.batches,
            precision=self.step.precision,
            loss_batch_size=self.task.config.batch_size,
            loss_order=split.loss_order,
            needs_tokens=self.step.needs_tokens,
            device=self.device,
            ranks=self.ranks,
            on_step=on_step,
        )

    def follow(self, order: str, argument: Any) -> None:
        if order == EVALUATE:
            self._scored(self._split(argument))
        else:
            assert order == RESTORE, f"unknown order {order}"
            self._copy_from_leader()

    def _copy_from_leader(self) -> None:
        for module in (self.model, self.objective):
            self.ranks.copy_from_leader([*module.parameters(), *module.buffers()])

    # --- log

    def settings(self, device: str) -> list[tuple[str, str]]:
        task, config = self.task, self.task.config
        fold = "no image is held out"
        if isinstance(task, FoldTask):
            fold = task.place
        lines = [
            *loss_lines(config, self.weights),
            ("Config", task.name),
            ("Fold", fold),
            ("Images", f"{len(self.train_indices)} train, {self.val.size} validation"),
            ("Device", device),
        ]
        if self.ranks.are_several:
            processes = f"{self.ranks.size}, each with a device and a share of every batch"
            lines.append(("Processes", processes))
        return lines

    def shared_settings(self) -> list[tuple[str, str]]:
        config = self.task.config
        counts = self.manifest.class_counts.tolist()
        total = sum(p.numel() for p in self.model.parameters())
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        encoder = config.text_encoder
        texts = "not read"
        if encoder.family not in ("prompts", "none") or encoder.start is not None:
            n_prompts = sum(len(rows) for rows in self.texts.prompts)
            texts = f"{n_prompts} prompts from {self.texts.source}"
        precision = self.step.precision
        effective = {  # where a setting leaves it open, or is limited
            "horizontal_flip": config.flips_horizontally,
            "use_amp": precision.dtype is not None,
            "amp_dtype": str(precision.dtype or torch.float32).removeprefix("torch."),
            "micro_batch_size": self.task.images_at_once,
            "warmup_epochs": min(config.warmup_epochs, WARMUP_SHARE * config.epochs),
            "compile": self.model.image_encoder.is_compiled,
        }
        return [
            ("image_encoder_name", config.image_encoder_name),
            ("text_encoder_name", config.text_encoder_name),
            ("Parameters", f"{total:,} ({trainable:,} trained)"),
            (
                "Classes",
                ", ".join(f"{c} {n}" for c, n in zip(self.manifest.classes, counts, strict=True)),
            ),
            ("Class texts", texts),
            *setting_lines(config, IN_BANNER_ALREADY, effective),
        ]

    def log_epoch(
        self, console: Console, train: MeanScores, row: Columns, *, improved: bool
    ) -> None:
        lines = ["", console.score_line("Train", train)]
        if self._last is not None:
            lines.append(console.score_line("Val", self._last.scores, row["val_mAP"]))
        if improved:
            lines.append(f"Best epoch so far by {self.monitor}")
        console.epoch_done(lines, row, self.monitor)

    # --- files

    def state(self) -> dict[str, Any]:
        return {
            **self._for_inference(),
            "model": self.model.checkpoint_state(),
            "objective": self.objective.state_dict(),
            "class_features": self._class_features(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.objective.load_state_dict(state["objective"])

    def keep_best(self, epoch: int, row: Columns) -> None:
        def copied(state: Mapping[str, Any]) -> dict[str, Any]:
            return {
                key: value.detach().clone() if torch.is_tensor(value) else value
                for key, value in state.items()
            }

        assert self._last is not None, "the epoch was evaluated"
        content: dict[str, Any] = {
            "epoch": epoch,
            "metrics": dict(row),
            "model": copied(self.model.checkpoint_state()),
            "objective": copied(self.objective.state_dict()),
            "class_features": self._class_features(),
        }
        self._best = content, self._last

    def write_best(self) -> None:
        """Write `predictions.csv` and, with `save_best`, `checkpoint_best.pth`.

        Test images are evaluated with that checkpoint, so it then exists until the end in any case.
        """
        if self._best is None:
            return
        paths, (content, evaluation) = self.task.paths, self._best
        if self.task.config.save_best or self.test is not None:
            state = {**identification(self.task), **self._for_inference(), **content}
            save_checkpoint(paths.checkpoint_best, state)
        # After the model, whose epoch says which epoch these are of.
        self.val.predictions(evaluation).write(paths.predictions)
        self._best = None

    def _for_inference(self) -> dict[str, Any]:
        """Checkpoint entries that turn weights and class features into a classifier."""
        counts = np.bincount(
            self.manifest.labels[self.train_indices], minlength=len(self.manifest.classes)
        )
        encoder = self.model.image_encoder
        return {
            "classes": list(self.texts.classes),
            "prompts": [list(prompts) for prompts in self.texts.prompts],
            "class_counts": counts.tolist(),
            "vocabulary_size": self.model.vocabulary_size,
            "transform": {
                "img_size": self.task.config.img_size,
                "store_size": self.store_size,
                "mean": list(encoder.mean),
                "std": list(encoder.std),
            },
        }

    @torch.no_grad()
    def _class_features(self) -> Tensor | None:
        """Class features, so that prediction needs no text tower."""
        with evaluation_mode(self.model, self.objective):
            features = class_features(self.model, self.step.precision)
        return None if features is None else features.cpu()

    def finish(self, console: Console, history: History, best_epoch: int | None) -> dict[str, Any]:
        """Write last predictions and sampler exposure, and evaluate the test images."""
        paths, last_epoch = self.task.paths, history.epochs
        chosen_on = "no image"
        if self.val.size:
            # Not evaluated by this process if the run stopped after the last epoch.
            last = self._last or self._evaluate("val", last_epoch, console)
            self.val.predictions(last).write(paths.predictions_last)
            chosen_on = "reported fold" if self.inner is None else "inner validation split"
        notices = []
        if self._keeps_epochs:
            shape = (self.val.size, len(self.manifest.classes))
            if not compress_epochs(paths, last_epoch, *shape):
                notices.append(
                    "The predictions of earlier epochs were lost, so the headline is the last epoch"
                )
        self._write_exposure(last_epoch)
        test = self._test(best_epoch or last_epoch, last_epoch, console)

        def scores(epoch: int | None) -> Columns:
            row = {} if epoch is None else history.row(epoch)
            return {name: value for name, value in row.items() if name.startswith("val_")}

        return {
            "n_train": len(self.train_indices),
            "n_val": self.val.size,
            "best": scores(best_epoch),
            "last": scores(last_epoch),
            "chosen_on": chosen_on,
            "n_test": 0 if self.test is None else self.test.size,
            "test": test,
            "notices": notices,
        }

    @property
    def _keeps_epochs(self) -> bool:
        """Whether the choice of the epoch will have to be corrected, and can be."""
        config = self.task.config
        values = config.epochs * self.val.size * len(self.manifest.classes)
        is_chosen_here = self.inner is None and config.epochs > 1 and self.val.size > 0
        return config.keep_epoch_predictions and is_chosen_here and values <= MAX_VALUES

    def _test(self, epoch: int, last_epoch: int, console: Console) -> Columns:
        """Evaluate the test images with the model of `epoch`, which replaces the last one."""
        if self.test is None:
            return {}
        paths = self.task.paths
        if epoch != last_epoch:
            state = load_checkpoint(paths.checkpoint_best)
            found = int(state["epoch"])
            assert found == epoch, f"the best checkpoint is of epoch {found}, not {epoch}"
            self.ranks.announce(RESTORE, epoch)
            self.model.load_checkpoint_state(state["model"], source=str(paths.checkpoint_best))
            self.objective.load_state_dict(state["objective"])
            self._copy_from_leader()
        evaluation = self._evaluate("test", epoch, console)
        self.test.predictions(evaluation).write(paths.test_predictions)
        scores = evaluation.columns("test", self.weights)
        # A fraction, None with at most five classes; papers on many classes report it.
        scores["test_top_5"] = top_k_accuracy(evaluation.probabilities, evaluation.targets, 5)
        line = console.score_line("Test", evaluation.scores, scores["test_mAP"])
        console.line(f"{line} (epoch {epoch})")
        if not self.task.config.save_best:
            paths.checkpoint_best.unlink(missing_ok=True)
        return scores

    def _write_exposure(self, epochs: int) -> None:
        """Write how often each training image was seen: `sampler_exposure.csv`."""
        manifest = self.manifest
        counts = self.batches.exposure(epochs).tolist()
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "label", "times_seen"))
        for index, count in zip(self.train_indices.tolist(), counts, strict=True):
            label = manifest.classes[manifest.labels[index]]
            writer.writerow(map(escape_cell, (manifest.paths[index], label, count)))
        write_text(self.task.paths.exposure, stream.getvalue())
