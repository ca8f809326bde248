"""The passes over a fold's images: epochs of training, and looks at an evaluation side.

Of several ranks all go over the same images at the same time: the first one when it wants to, the
others when it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from clip_pkg.data.sampling import derive_seed
from clip_pkg.losses.contract import LossOutput
from clip_pkg.models.checkpoint import load_checkpoint
from clip_pkg.training.epoch import EpochScores, Evaluation, OnStep, evaluate, train_epoch
from clip_pkg.training.phases import Phases, unmeasured
from clip_pkg.training.recording_choice import is_wanted, recorded_if_possible
from clip_pkg.training.setup import FoldSetup, Side
from clip_pkg.training.step import TrainingStep

TRAIN, EVALUATE, GO_BACK = "train", "evaluate", "go back"


class FoldPasses:
    """What a fold does again and again; each pass is a function of the model and its number.

    phases: what measures their parts.
    """

    def __init__(self, setup: FoldSetup, phases: Phases = unmeasured) -> None:
        self._setup = setup
        self._phases = phases
        self._step = TrainingStep(
            setup.model,
            setup.objective,
            setup.image_side,
            setup.optimisation,
            precision=setup.precision,
            mixing=setup.mixing,
            needs_tokens=setup.config.needs_tokens,
            prompt_generator=torch.Generator(),
            negatives_generator=torch.Generator(setup.device),
            phases=phases,
        )

    def record(self, epoch: int) -> str | None:
        """Record the training step if the config wants it; returns what is to be told about it.

        epoch: the one to come, which is trained as if this had not happened.
        """
        if not is_wanted(self._setup):
            return None
        self._seed(epoch)
        for module in (self._setup.model, self._setup.objective):
            module.train()
        batch = next(self._setup.train.epoch(epoch))
        self._step, told = recorded_if_possible(self._setup, self._step, batch)
        return told

    def train(
        self, epoch: int, *, on_output: Callable[[LossOutput], None], on_step: OnStep
    ) -> EpochScores:
        """Train one epoch; see `train_epoch`."""
        self._setup.ranks.announce(TRAIN, epoch)
        return self._train(epoch, on_output=on_output, on_step=on_step)

    def evaluate(self, side: Side, *, on_step: OnStep) -> Evaluation:
        """Look at every image of a side once; see `evaluate`."""
        self._setup.ranks.announce(EVALUATE, side)
        with self._phases("validation"):
            return self._evaluate(side, on_step=on_step)

    def go_back(self, checkpoint: Path) -> int:
        """Take the weights that a checkpoint of this fold has; returns its epoch."""
        setup, state = self._setup, load_checkpoint(checkpoint)
        setup.ranks.announce(GO_BACK, state["epoch"])
        setup.model.load_checkpoint_state(state["model"], source=str(checkpoint))
        setup.objective.load_state_dict(state["objective"])
        self._copy()
        return int(state["epoch"])

    def _copy(self) -> None:
        """Give all ranks the weights of the first one."""
        for module in (self._setup.model, self._setup.objective):
            self._setup.ranks.copy_from_leader([*module.parameters(), *module.buffers()])

    def follow(self) -> None:
        """Take part in every pass of the first rank until it is done."""
        for kind, which in self._setup.ranks.orders():
            if kind == TRAIN:
                self._train(which, on_output=lambda output: None, on_step=lambda done, scores: None)
            elif kind == GO_BACK:
                self._copy()
            else:
                assert kind == EVALUATE, f"rank 0 announces {kind}"
                self._evaluate(which, on_step=lambda done, scores: None)

    def _train(
        self, epoch: int, *, on_output: Callable[[LossOutput], None], on_step: OnStep
    ) -> EpochScores:
        self._seed(epoch)
        return train_epoch(
            self._step,
            self._setup.train.epoch(epoch),
            device=self._setup.device,
            on_output=on_output,
            on_step=on_step,
        )

    def _seed(self, epoch: int) -> None:
        """Let every epoch draw numbers of its own; a resumed run needs no generator's state."""

        def seed(stream: str) -> int:
            config, fold = self._setup.config, self._setup.task.fold
            return derive_seed(config.random_state, fold, epoch, stream)

        torch.manual_seed(seed("layers"))  # dropout and the like
        self._step.prompt_generator.manual_seed(seed("prompts"))
        self._step.negatives_generator.manual_seed(seed("negatives"))

    def _evaluate(self, name: Side, *, on_step: OnStep) -> Evaluation:
        setup, side = self._setup, self._setup.side(name)
        return evaluate(
            setup.model,
            setup.objective,
            side.batches,
            precision=setup.precision,
            loss_batch_size=setup.config.batch_size,
            loss_order=side.loss_order,
            needs_tokens=setup.config.needs_tokens,
            device=setup.device,
            ranks=setup.ranks,
            on_step=on_step,
        )
