"""Inputs and outputs of training objectives, and their base class.

Legend: B images of the batch, C classes, D embedding size, L tokens per text.

The trainer passes one `LossInputs` per step; the objective adds up its terms; the trainer logs
them. Objectives are modules, so that their own parameters (a bias, proxies) reach the optimiser and
the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from clip_pkg.losses.functional.numerics import autocast_off, widened


@dataclass(frozen=True)
class LossInputs:
    """One batch as the losses see it; every float tensor is float32 (never half precision).

    image_features: [B, D], L2-normalised.
    class_features: [C, D], L2-normalised text features, one row per class; the B texts of a batch
        are the rows `class_features[targets]`. None in a model without texts.
    targets: [B], int64 class of each image; of a mixed image, the class with the larger share.
    logit_scale: scalar 1/temperature, already exponentiated, with gradient when it is learned.
    image_embeddings: [B, D], `image_features` before normalisation.
    soft_targets: [B, C] shares of the classes if labels are mixed or smoothed, rows sum to 1.
    mask: [B] bool, true for images that count; None for all. The values of the others, even NaN or
        an invalid class, have no influence.
    class_tokens: [C, L] int64 token ids of each class's text in this step, padded with -1.
    generator: source of sampled negatives; None for torch's global one.
    """

    image_features: Tensor
    class_features: Tensor | None
    targets: Tensor
    logit_scale: Tensor
    image_embeddings: Tensor | None = None
    soft_targets: Tensor | None = None
    mask: Tensor | None = None
    class_tokens: Tensor | None = None
    generator: torch.Generator | None = None

    @cached_property
    def class_logits(self) -> Tensor:
        """Scaled cosine of each image to each class text, [B, C]; never in half precision."""
        with autocast_off(self.image_features.device):
            return self.logit_scale * self.class_cosines

    @cached_property
    def class_cosines(self) -> Tensor:
        """Cosine of each image to each class text, [B, C]; never in half precision."""
        with autocast_off(self.image_features.device):
            return widened(self.image_features) @ self.texts.T

    @property
    def texts(self) -> Tensor:
        """`class_features`; raises if the model has none."""
        assert self.class_features is not None, "the loss needs class texts; the config checks it"
        return widened(self.class_features)

    @property
    def embeddings(self) -> Tensor:
        """Embeddings before normalisation; raises if the model has none."""
        assert self.image_embeddings is not None, "this loss needs the features before scaling"
        return widened(self.image_embeddings)

    @property
    def labels(self) -> Tensor:
        """Targets of a cross-entropy: `soft_targets` if there are any, else `targets`."""
        return self.targets if self.soft_targets is None else self.soft_targets

    def prepared(self) -> LossInputs:
        """Widen half precision, and zero the images that do not count.

        Returns `self` if nothing has to change, so that cached values are computed once.
        """
        features = (self.image_features, self.class_features, self.image_embeddings)
        is_wide = all(values is None or widened(values) is values for values in features)
        if self.mask is None and is_wide:
            return self
        absent = None if self.mask is None else ~self.mask

        def rows(values: Any) -> Any:
            wide = None if values is None else widened(values)
            return (
                wide if wide is None or absent is None else wide.masked_fill(absent[:, None], 0.0)
            )

        return replace(
            self,
            image_features=rows(self.image_features),
            class_features=None if self.class_features is None else self.texts,
            image_embeddings=rows(self.image_embeddings),
            soft_targets=rows(self.soft_targets),
            targets=self.targets if absent is None else self.targets.masked_fill(absent, 0),
        )


@dataclass(frozen=True)
class LossOutput:
    """Loss of one batch; all tensors are scalars.

    total: what is minimised.
    terms: its unweighted terms by name.
    weights: of each term; total = Σ weight · term.
    statistics: further quantities to plot, such as the mean positive logit.
    """

    total: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)


def weighted_sum(
    terms: Mapping[str, Tensor], weights: Mapping[str, float], statistics: Mapping[str, Tensor]
) -> LossOutput:
    """Add up unweighted terms, [] each, by their weights."""
    assert terms.keys() == weights.keys(), "every term has a weight"
    first, *others = [weights[name] * term for name, term in terms.items()]
    return LossOutput(sum(others, start=first), terms, weights, statistics)


class Objective(nn.Module):
    """Base class of all training objectives: `forward(LossInputs) -> LossOutput`.

    `forward` receives inputs that have passed `LossInputs.prepared`.

    Args:
        term_weights: weight of each term in the total.

    Attributes:
        lr_scale: factor on the learning rate of the parameters that it owns.
    """

    lr_scale: float = 1.0

    def __init__(self, term_weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.term_weights = dict(term_weights or {})

    def forward(self, inputs: LossInputs) -> LossOutput:
        raise NotImplementedError

    def start_epoch(self, done: float) -> None:
        """Prepare for an epoch; done: share of all epochs that are over, from 0 to below 1."""

    def weighted_sum(
        self, terms: Mapping[str, Tensor], statistics: Mapping[str, Tensor] | None = None
    ) -> LossOutput:
        """Add up unweighted terms, [] each, by `term_weights`."""
        return weighted_sum(terms, self.term_weights, statistics or {})

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        """Logits [B, C] whose softmax is the predicted class distribution.

        Those of the class texts, unless an objective predicts with its own parameters.
        """
        return inputs.class_logits

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for AdamW of the objective's own parameters; none is empty.

        Each has `name`, `params`, `lr`, `weight_decay`. The weights of linear classifiers decay;
        proxies, centres, class vectors and biases do not.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for owner in (module for module in self.modules() if isinstance(module, Objective)):
            for parameter, decays in _owned(owner):
                key = (learning_rate * owner.lr_scale, weight_decay if decays else 0.0)
                groups.setdefault(key, []).append(parameter)
        return [
            {"name": f"objective_{number}", "params": params, "lr": lr, "weight_decay": decay}
            for number, ((lr, decay), params) in enumerate(groups.items())
        ]


def _owned(module: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """Trainable parameters outside nested objectives, and whether they decay."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.requires_grad:
            yield parameter, isinstance(module, nn.Linear) and name == "weight"
    for child in module.children():
        if not isinstance(child, Objective):
            yield from _owned(child)


@dataclass(frozen=True)
class TrainingSet:
    """Facts about the data and the model that an objective is built from.

    class_counts: [C] images per class of the training fold.
    embed_dim: D.
    class_weights: [C], from the counts by `LossConfig.class_weight_method`; None if that is None.
    vocabulary_size: number of token ids of the text encoder's tokenizer; None without one.
    """

    class_counts: Tensor
    embed_dim: int
    class_weights: Tensor | None = None
    vocabulary_size: int | None = None

    @property
    def num_classes(self) -> int:
        return int(self.class_counts.numel())


class ComposedObjective(Objective):
    """total = main + Σ weight · auxiliary; the main objective predicts.

    Its terms are those of the main objective, with their weights, and one per auxiliary objective.
    It prepares the inputs for all of them.

    Args:
        main: any objective.
        auxiliary: name → (weight, objective whose only term has that name).
    """

    def __init__(self, main: Objective, auxiliary: Mapping[str, tuple[float, Objective]]) -> None:
        added = {name: weight for name, (weight, _) in auxiliary.items()}
        super().__init__({**main.term_weights, **added})
        assert len(self.term_weights) == len(main.term_weights) + len(added), "term names clash"
        self.main = main
        self.auxiliary = nn.ModuleDict({name: module for name, (_, module) in auxiliary.items()})

    def forward(self, inputs: LossInputs) -> LossOutput:
        prepared = inputs.prepared()
        output: LossOutput = self.main(prepared)
        terms, statistics = dict(output.terms), dict(output.statistics)
        for objective in self.auxiliary.values():
            further: LossOutput = objective(prepared)
            terms |= further.terms
            statistics |= further.statistics
        return self.weighted_sum(terms, statistics)

    def start_epoch(self, done: float) -> None:
        for objective in (self.main, *self.auxiliary.values()):
            assert isinstance(objective, Objective)
            objective.start_epoch(done)

    def prediction_logits(self, inputs: LossInputs) -> Tensor:
        return self.main.prediction_logits(inputs)
