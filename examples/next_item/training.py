"""The epochs of a training, what it writes, and how it goes on where it stopped."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_pkg.base.errors import CheckpointError, TrainingError
from clip_pkg.base.files import remove_leftovers, write_json
from clip_pkg.base.paths import ConfigPaths, FoldPaths, RunPaths
from clip_pkg.data.sampling import derive_seed
from clip_pkg.launch.terminal import Terminal
from clip_pkg.models.checkpoint import save_checkpoint
from clip_pkg.models.precision import Precision
from clip_pkg.study.run_folder import sole_launcher
from clip_pkg.training.console import LogLines
from clip_pkg.training.early_stopping import BestEpoch
from clip_pkg.training.environment import describe_environment
from clip_pkg.training.history import Columns, History
from clip_pkg.training.loss_scores import MeanScores, RunningScores
from clip_pkg.training.tensorboard import FoldCurves, StepCurves
from examples.next_item.batches import CANDIDATES, Question, Questions, TrainingBatches
from examples.next_item.interactions import Interactions
from examples.next_item.item_features import Features, digests
from examples.next_item.objective import LABELS
from examples.next_item.ranking import TOP, evaluate, popularity, table_lines
from examples.next_item.settings import Settings
from examples.next_item.trained_model import build, device_here, load, load_state

MONITOR = f"val_ndcg@{TOP}"
BETAS = (0.9, 0.98)  # of Adam, as published with the model


def train(settings: Settings, interactions: Interactions, features: Features, output: Path) -> int:
    """Train, or go on with a training in `output`; then test its best epoch. Returns 0."""
    with sole_launcher(RunPaths(output)):
        remove_leftovers(output)
        training = Training(settings, interactions, features, output)
        training.restore()
        training.run()
        training.test()
    return 0


class Training:
    """State of a training between epochs, and what happens in one."""

    def __init__(
        self, settings: Settings, interactions: Interactions, features: Features, output: Path
    ) -> None:
        self._settings = settings
        self._interactions = interactions
        self._paths, self._curves = FoldPaths(output), ConfigPaths(output).tensorboard
        self._identity = {**settings.identity(), "data": interactions.digest(), **digests(features)}
        self._device = device_here()
        torch.manual_seed(derive_seed(settings.seed, "initial weights"))
        tensors = {name: torch.from_numpy(values) for name, values in features.items()}
        self._trained = build(settings, interactions, tensors)
        self._model = self._trained.model.to(self._device)
        self._optimizer = torch.optim.Adam(self._model.parameters(), settings.lr, BETAS)
        self._batches = TrainingBatches(
            interactions,
            batch_size=settings.batch_size,
            maxlen=settings.maxlen,
            seed=settings.seed,
        )
        self._history = History()
        self._best = BestEpoch(sign=1, patience=settings.patience, min_delta=0.0)
        self._terminal = Terminal()
        self._log = LogLines(sys.stdout)

    def restore(self) -> None:
        """Go on from the latest checkpoint where there is one, of these settings and data."""
        path = self._paths.checkpoint_latest
        if not path.exists():
            return
        state = load_state(path, self._device)
        names = {*self._identity, *state["identity"]}
        differ = sorted(n for n in names if self._identity.get(n) != state["identity"].get(n))
        if differ:
            raise CheckpointError(
                f"{path} belongs to another training: its {', '.join(differ)} differ; use the "
                "settings and data it was made with, or another --output_dir"
            )
        self._history = History(state["history"])
        if self._history.epochs > self._settings.num_epochs:
            raise CheckpointError(
                f"{path} has {self._history.epochs} epochs, more than --num_epochs "
                f"{self._settings.num_epochs}; use another --output_dir to train for fewer"
            )
        self._best = BestEpoch(**{**state["best"], "patience": self._settings.patience})
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    # --- the epochs

    def run(self) -> None:
        """Train the epochs that are left, until the last or until patience runs out."""
        self._banner()
        done, in_all = self._history.epochs, self._settings.num_epochs
        each = len(self._batches)
        questions = self._questions(held_out=2)
        curves = FoldCurves(self._curves, LABELS, self._history)
        steps = StepCurves(self._curves, LABELS, total_steps=each * in_all, done=each * done)
        with curves, steps:
            for epoch in range(done + 1, in_all + 1):
                if self._best.should_stop:
                    self._log.line(f"No gain for {self._best.waited} epochs: stopped early.")
                    break
                row = self._epoch(epoch, steps, questions)
                self._history.append(row)
                self._best = self._best.after(epoch, row[MONITOR])
                self._save(epoch, row)
                curves.add()

    def _epoch(self, epoch: int, steps: StepCurves, questions: Questions) -> Columns:
        started = time.monotonic()
        # Dropout's numbers belong to the epoch, so that a continued training draws the same.
        torch.manual_seed(derive_seed(self._settings.seed, epoch, "dropout"))
        train = self._train(epoch, steps)
        trained = time.monotonic() - started
        val, metrics = self._validate(epoch, questions)
        weights = self._trained.objective.weights
        told = [name for name in metrics if not name.startswith("sampled_")]
        self._log.line(
            f"Epoch {epoch}/{self._settings.num_epochs}  Train Loss: {train.loss:.4f}, Val Loss: "
            f"{val.loss:.4f}, "
            + ", ".join(f"Val {name.upper()}: {metrics[name]:.4f}" for name in told)
        )
        return {
            "train_loss": train.loss,
            **train.columns("train", weights),
            "val_loss": val.loss,
            **val.columns("val", weights),
            **{f"val_{name}": value for name, value in metrics.items()},
            "learning_rate": self._settings.lr,
            "train_sequences_per_second": self._batches.num_sequences / trained,
            "epoch_seconds": time.monotonic() - started,
        }

    def _train(self, epoch: int, steps: StepCurves) -> MeanScores:
        model, running = self._model.train(), RunningScores()
        with self._terminal.counting(f"Epoch {epoch} [Train]") as show:
            for done, host_batch in enumerate(self._batches.epoch(epoch), start=1):
                batch = host_batch.to(self._device)
                hidden = model.hidden_states(batch.groups)
                output = self._trained.objective(model, hidden, batch.positives, batch.negatives)
                self._optimizer.zero_grad()
                torch.autograd.backward(output.total)
                self._optimizer.step()
                running.add(output, len(hidden))
                steps.add(output)
                show(done, len(self._batches))
        steps.flush()
        scores = running.fetch()
        if not math.isfinite(scores.loss):
            raise TrainingError(
                f"the loss is not finite in epoch {epoch}; a smaller --lr or a larger "
                "--infonce_temperature usually helps"
            )
        return scores

    def _validate(self, epoch: int, questions: Questions) -> tuple[MeanScores, dict[str, float]]:
        """Loss and ranks of the second-to-last items; the loss has a sampled item per user."""
        trained, running = self._trained, RunningScores()
        self._model.eval()

        def score(question: Question) -> Tensor:
            assert question.targets is not None, "these are held out"
            assert question.candidates is not None
            hidden = trained.hidden(question)
            targets, others = question.targets, question.candidates[:, 0]
            output = trained.objective(
                self._model, hidden, targets.to(self._device), others.to(self._device)
            )
            running.add(output, len(targets))
            return trained.objective.scores(hidden, self._model.all_item_vectors())

        with self._terminal.counting(f"Epoch {epoch} [Val]") as show:
            metrics = evaluate(score, questions, show)
        return running.fetch(), metrics

    # --- files

    def _save(self, epoch: int, row: Columns) -> None:
        """Write the best model if it is new, then the latest state.

        In this order: a latest checkpoint never claims a best one that was not written.
        """
        content = {**self._trained.state(), "epoch": epoch, "metrics": dict(row)}
        if self._best.epoch == epoch:
            save_checkpoint(self._paths.checkpoint_best, content)
        run_state = {
            "identity": self._identity,
            "optimizer": self._optimizer.state_dict(),
            "history": self._history.columns,
            "best": vars(self._best),
        }
        save_checkpoint(self._paths.checkpoint_latest, {**content, **run_state})
        self._history.write(self._paths.history)

    def test(self) -> None:
        """Rank the last items, by the best checkpoint and by popularity; write `result.json`."""
        best, content = load(self._paths.checkpoint_best, self._device)
        questions = self._questions(held_out=1)
        with self._terminal.counting("Test") as show:
            test = evaluate(best.scores, questions, show)
        with self._terminal.counting("Test of popularity") as show:
            popular = evaluate(popularity(self._interactions), questions, show)
        self._history.write(self._paths.history)
        write_json(
            self._paths.result,
            {
                "settings": asdict(self._settings),
                "identity": self._identity,
                "data": self._interactions.sizes(),
                "sampled_negatives": CANDIDATES,
                "epochs": self._history.epochs,
                "best_epoch": content["epoch"],
                "chosen_by": MONITOR,
                "test": test,
                "test_of_popularity": popular,
                "environment": describe_environment(
                    self._device, Precision(self._device.type, None)
                ),
            },
        )
        self._log.line(f"Test, epoch {content['epoch']}, the best by {MONITOR}:")
        for line in table_lines({self._settings.loss: test, "popularity": popular}):
            self._log.line(line)
        here = Path(__file__).parent
        self._log.line(f"Curves:        tensorboard --logdir {self._curves}")
        self._log.line(
            f"Top {TOP} per user: python {here / 'eval' / 'infer.py'} --checkpoint "
            f"{self._paths.checkpoint_best}"
        )

    def _questions(self, held_out: int) -> Questions:
        return Questions(self._interactions, held_out=held_out, maxlen=self._settings.maxlen)

    def _banner(self) -> None:
        facts: Mapping[str, Any] = {**asdict(self._settings), **self._interactions.sizes()}
        self._log.banner(
            f"Next item, {LABELS[self._settings.loss].label}",
            [(name, str(value)) for name, value in facts.items()],
        )
        if self._history.epochs:
            self._log.line(f"Goes on after epoch {self._history.epochs}.")
