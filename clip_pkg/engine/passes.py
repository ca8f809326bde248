"""The passes over a fold's images: epochs of training, and looks at an evaluation side.

Of several ranks all go over the same images at the same time: the first one when it wants to, the
others when it says so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from clip_pkg.data.random_streams import derive_seed
from clip_pkg.engine.epoch import EpochScores, Evaluation, OnStep, evaluate, train_epoch
from clip_pkg.engine.phases import Phases, unmeasured
from clip_pkg.engine.setup import FoldSetup, Side
from clip_pkg.engine.step import TrainingStep
from clip_pkg.losses.contract import LossOutput

TRAIN, EVALUATE = "train", "evaluate"


class FoldPasses:
    """What a fold does again and again; each pass is a function of the model and its number.

    phases: what measures their parts.
    """

    def __init__(self, setup: FoldSetup, phases: Phases = unmeasured) -> None:
        self._setup = setup
        self._phases = phases

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

    def follow(self) -> None:
        """Take part in every pass of the first rank until it is done."""
        for kind, which in self._setup.ranks.orders():
            if kind == TRAIN:
                self._train(which, on_output=lambda output: None, on_step=lambda done, scores: None)
            else:
                assert kind == EVALUATE, f"rank 0 announces {kind}"
                self._evaluate(which, on_step=lambda done, scores: None)

    def _train(
        self, epoch: int, *, on_output: Callable[[LossOutput], None], on_step: OnStep
    ) -> EpochScores:
        setup, config = self._setup, self._setup.config

        def seed(stream: str) -> int:
            return derive_seed(config.random_state, setup.task.fold, epoch, stream)

        # Dropout and the like draw from the global generator; with a seed per epoch a resumed run
        # needs none of its state.
        torch.manual_seed(seed("layers"))
        step = TrainingStep(
            setup.model,
            setup.objective,
            setup.image_side,
            setup.optimisation,
            precision=setup.precision,
            mixing=setup.mixing,
            needs_tokens=config.needs_tokens,
            prompt_generator=torch.Generator().manual_seed(seed("prompts")),
            negatives_generator=torch.Generator(setup.device).manual_seed(seed("negatives")),
            phases=self._phases,
        )
        return train_epoch(
            step,
            setup.train.epoch(epoch),
            device=setup.device,
            on_output=on_output,
            on_step=on_step,
        )

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
