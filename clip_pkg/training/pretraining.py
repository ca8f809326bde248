"""The learner of a pre-training: an image encoder and two augmented views of each image.

Legend: B images of a batch, H image height and width in pixels, F features of the encoder, P size
of the projection that the loss compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from timm.optim import Lars
from torch import Tensor, nn

from clip_pkg.config.loss_blocks import term_labels
from clip_pkg.config.pretraining import LarsConfig, PretrainConfig, ProjectionConfig, SgdConfig
from clip_pkg.data.sampling import derive_seed
from clip_pkg.data.two_views import TwoViewBatches, TwoViews
from clip_pkg.losses.contract import LossOutput
from clip_pkg.losses.functional.numerics import widened
from clip_pkg.losses.two_views import TwoViewLoss
from clip_pkg.models.checkpoint import save_checkpoint
from clip_pkg.models.image_encoder import ImageEncoder
from clip_pkg.models.precision import Precision
from clip_pkg.study.tasks import PretrainTask
from clip_pkg.training.banner import setting_lines
from clip_pkg.training.console import Console
from clip_pkg.training.history import Columns, History
from clip_pkg.training.image_forward import Embed
from clip_pkg.training.loss_scores import MeanScores, RunningScores
from clip_pkg.training.optimisation import Diverged, Groups, Optimisation, fused_adamw
from clip_pkg.training.pretraining_measures import (
    LABEL_COLUMNS,
    TAGS,
    LabelProbe,
    RecentPairs,
    collapse,
)
from clip_pkg.training.trainer import Learner, identification

LARS_BATCH = 256  # images to which the learning rate of LARS applies; it grows with the batch


class ViewsModel(nn.Module):
    """Image encoder and projection head.

    The encoder's features are its embeddings for `image_forward`: the head is not computed in
    micro-batches, so that its batch statistics are always of the whole batch.
    """

    def __init__(self, encoder: ImageEncoder, projection: ProjectionConfig) -> None:
        super().__init__()
        self.image_encoder = encoder
        self.image_projection = nn.Identity()
        self.head = projection_head(encoder.num_features, projection)

    def image_embeddings(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, H] → features, float32 [B, F]."""
        return widened(self.image_encoder(images))

    def projected(self, features: Tensor) -> Tensor:
        """Features [B, F] → projection, float32 [B, P]."""
        return widened(self.head(features))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, H] → projection, float32 [B, P]."""
        return self.projected(self.image_embeddings(images))

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters that decay, and norms, biases and the like, which do not.

        Parameters that an encoder's own library never decays do not decay here either.
        """
        undecayed = {
            f"{name}.{parameter}"
            for name, module in self.named_modules()
            if callable(excluded := getattr(module, "no_weight_decay", None))
            for parameter in excluded()
        }
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.named_parameters():
            groups[parameter.ndim > 1 and name not in undecayed].append(parameter)
        return [
            {"params": parameters, "lr": lr, "weight_decay": weight_decay if decays else 0.0}
            for decays, parameters in groups.items()
            if parameters
        ]


def projection_head(features: int, config: ProjectionConfig) -> nn.Sequential:
    """Linear layers with batch norms and ReLUs between them: [B, F] → [B, P]."""
    sizes = [features, *[config.hidden] * (config.layers - 1), config.dim]
    modules: list[nn.Module] = []
    for width, following in pairwise(sizes[:-1]):
        modules += [nn.Linear(width, following, bias=False), nn.BatchNorm1d(following), nn.ReLU()]
    return nn.Sequential(*modules, nn.Linear(sizes[-2], sizes[-1]))


def optimizer_factory(block: PretrainConfig) -> Callable[[Groups], torch.optim.Optimizer]:
    """Function that makes the config's optimiser from parameter groups."""
    chosen = block.optimizer
    if isinstance(chosen, SgdConfig):
        return lambda groups: torch.optim.SGD(groups, momentum=chosen.momentum)
    if isinstance(chosen, LarsConfig):
        return lambda groups: Lars(groups, momentum=chosen.momentum)
    return fused_adamw


@torch.no_grad()
def move_towards(slow: nn.Module, model: nn.Module, momentum: float) -> None:
    """Move the parameters of `slow` towards those of `model`, without batch statistics.

    A step that was not finite left the model unchanged, so that the copy stays finite as well.
    """
    torch._foreach_lerp_(
        list(slow.parameters()), [p.detach() for p in model.parameters()], 1 - momentum
    )


@dataclass(eq=False)
class EncoderLearner(Learner):
    """An image encoder that learns from two views of each image.

    Without a slow copy both views are one batch to the batch norms; with micro-batches those of the
    encoder use the statistics of a micro-batch, and those of the head still the whole batch's.
    With one, the second views go through it (He et al. 2020, arXiv:1911.05722, section 3.2), and
    each view is a batch of its own to the batch norms, in training mode in both encoders.

    images: int64, positions of the training images in the manifest. slow: of a training with a
    queue. probe: None without labels to evaluate with.
    """

    title: ClassVar[str] = "PRE-TRAINING CONFIGURATION"
    curve_tags: ClassVar[Mapping[str, str]] = TAGS

    task: PretrainTask
    block: PretrainConfig
    model: ViewsModel
    slow: ViewsModel | None
    loss: TwoViewLoss
    embed: Embed
    optimisation: Optimisation
    precision: Precision
    batches: TwoViewBatches
    probe: LabelProbe | None
    images: NDArray[np.int64]
    peak_rate: float
    _pairs: RecentPairs = field(init=False, default_factory=RecentPairs)
    _collapse: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.labels = term_labels([self.block.loss])
        self.weights = self.loss.term_weights

    def start_epoch(self, epoch: int) -> None:
        torch.manual_seed(
            derive_seed(
                self.task.config.random_state,
                self.task.fold,
                epoch,
                "layers of the pre-training",
            )
        )
        self.model.train()
        self._pairs = RecentPairs()

    def train_on(self, batch: TwoViews, running: RunningScores) -> LossOutput:
        both = self.slow is None
        features, backward = self.embed(
            torch.cat([batch.first, batch.second]) if both else batch.first
        )
        with self.precision.autocast():
            projected = self.model.projected(features)
            if self.slow is None:
                first, second = projected.chunk(2)
            else:
                with torch.no_grad():
                    first, second = projected, self.slow(batch.second)
        output: LossOutput = self.loss(first, second, batch.targets)
        self.optimisation.apply(output.total, backward)
        if self.slow is not None:
            assert self.block.queue is not None, "a slow copy belongs to a queue"
            move_towards(self.slow, self.model, self.block.queue.momentum)
        running.add(output, self.batches.batch_size)
        self._pairs.add(first.detach(), second.detach())
        return output

    def evaluate_untrained(self, console: Console) -> Columns:
        if self.probe is None:
            return {}
        scores = self.probe(self.model.image_encoder, self.precision)
        console.line(f"Untrained: {_words(scores)}")
        return scores

    def evaluate(self, epoch: int, console: Console) -> Columns:
        measures = self._pairs.measures()
        scores: Columns = dict.fromkeys(LABEL_COLUMNS)
        is_due = epoch % self.block.probe_every == 0 or epoch == self.task.config.epochs
        if self.probe is not None and is_due:
            scores = self.probe(self.model.image_encoder, self.precision)
        return {**measures, **scores}

    def log_epoch(
        self, console: Console, train: MeanScores, row: Columns, *, improved: bool
    ) -> None:
        measures = _words({name: row[name] for name in TAGS})
        console.epoch_done([f"Train Loss: {train.loss:.4f}, {measures}"], row, "probe_acc")
        before, self._collapse = self._collapse, collapse(row, self.block.projection.dim)
        if self._collapse is not None and before is None:
            console.line(f"WARNING: {self._collapse}")

    def settings(self, device: str) -> list[tuple[str, str]]:
        config, steps = self.task.config, len(self.batches)
        probe = "evaluated with labels" if self.probe is not None else "evaluated without labels"
        return [
            ("Loss Type", self.block.loss.type),
            *setting_lines(self.block.loss, {"type"}),
            ("Config", self.task.name),
            ("Images", f"{len(self.images)}, {probe}"),
            ("Steps", f"{steps} per epoch, {steps * config.epochs} in all"),
            ("Device", device),
        ]

    def shared_settings(self) -> list[tuple[str, str]]:
        config = self.task.config
        parameters = sum(p.numel() for p in self.model.image_encoder.parameters())
        return [
            ("image_encoder_name", config.image_encoder_name),
            ("stem", config.stem),
            ("Parameters", f"{parameters:,} of the encoder"),
            *setting_lines(self.block, {"loss"}),
            ("random_state", str(config.random_state)),
        ]

    def state(self) -> dict[str, Any]:
        return {
            "model": _on_cpu(self.model.state_dict()),
            "slow": None if self.slow is None else _on_cpu(self.slow.state_dict()),
            "loss": _on_cpu(self.loss.state_dict()),
            "collapsed": self._collapse,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._collapse = state["collapsed"]
        self.loss.load_state_dict(state["loss"])
        if self.slow is not None:
            self.slow.load_state_dict(state["slow"])

    def finish(self, console: Console, history: History, best_epoch: int | None) -> dict[str, Any]:
        """Write the encoder; its measures are those of the last epoch."""
        encoder = _on_cpu(self.model.image_encoder.state_dict())
        if not all(bool(torch.isfinite(value).all()) for value in encoder.values()):
            raise Diverged("the pre-trained encoder has weights that are not finite")
        save_checkpoint(
            self.task.paths.encoder,
            {**identification(self.task), "epoch": history.epochs, "image_encoder": encoder},
        )
        row = history.row(history.epochs)
        return {
            "n_train": len(self.images),
            "n_val": 0,
            "best": {},
            "last": {name: row[name] for name in ("train_loss", *TAGS)},
            "chosen_on": "no image",
            "notices": [] if self._collapse is None else [self._collapse],
        }


def _words(measures: Columns) -> str:
    """Measures in a log line; accuracies in percent."""
    return ", ".join(
        f"{name.replace('_acc', '').replace('_', ' ')} "
        + (f"{value:.2f}%" if name in LABEL_COLUMNS else f"{value:.3g}")
        for name, value in measures.items()
        if value is not None
    )


def _on_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.detach().cpu() for name, value in state.items()}
