"""Small batches for tests of objectives, and every row of the loss table with its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_pkg.config.auxiliary_losses import AUXILIARY_LOSSES, AuxConfig, TripletConfig
from clip_pkg.config.loss_blocks import FocalConfig, LossConfig
from clip_pkg.config.losses import (
    LOSSES,
    BceLossConfig,
    CeInfoNceLossConfig,
    CeLossConfig,
    ClipLossConfig,
    CombinedLossConfig,
    FocalLossConfig,
    InfoNceLossConfig,
    ProxyLossConfig,
    SuperClipLossConfig,
)
from clip_pkg.losses.contract import LossInputs, Objective, TrainingSet
from clip_pkg.losses.registry import build_objective

CLASSES, DIM, VOCABULARY = 5, 8, 11
COUNTS = torch.tensor([40, 3, 17, 1, 9])
WEIGHTS = torch.tensor([0.4, 2.0, 0.7, 5.0, 1.1], dtype=torch.float64)
TRAINING_SET = TrainingSet(COUNTS, DIM, WEIGHTS, VOCABULARY)
# Class 4's text repeats a token; -1 is padding.
TOKENS = torch.tensor([[0, 1, 10], [0, 2, 10], [0, 3, -1], [0, -1, -1], [0, 4, 4]])


@dataclass(frozen=True)
class Case:
    """A loss with its settings, as a config describes it."""

    name: str
    loss: LossConfig
    aux: tuple[AuxConfig, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def losses(self) -> tuple[LossConfig, ...]:
        return (self.loss, *self.aux)

    def build(self, seed: int = 0) -> Objective:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_objective(self.loss, TRAINING_SET, self.aux)


EVERY_ROW = [
    *(Case(kind, config()) for kind, config in LOSSES.items()),
    *(Case(kind, CeLossConfig(), (config(),)) for kind, config in AUXILIARY_LOSSES.items()),
]
VARIANTS = [
    Case("ce_linear", CeLossConfig(classifier="linear", class_weighting="auto")),
    Case("focal_linear", FocalLossConfig(classifier="linear", gamma=0.5, class_weighting="auto")),
    Case("superclip_focal", SuperClipLossConfig(focal=FocalConfig(alpha=0.25))),
    Case("ce_infonce_linear", CeInfoNceLossConfig(classifier="linear", contrast_weight=2.0)),
    Case("proxy_focal", ProxyLossConfig(proxy_type="FocalStyleProxyAnchorLoss", gamma_neg=0.5)),
    Case("combined_linear", CombinedLossConfig(classifier="linear", lambda_combined=0.7)),
    Case("combined_proxy_alone", CombinedLossConfig(lambda_combined=0.0)),
    Case("infonce_sampled", InfoNceLossConfig(num_negatives=7)),
    Case("bce_sampled", BceLossConfig(num_negatives=7)),
    Case("triplet_all", ClipLossConfig(), (TripletConfig(mining="batch_all", weight=0.3),)),
    Case(
        "all_auxiliaries", ClipLossConfig(), tuple(config() for config in AUXILIARY_LOSSES.values())
    ),
]


def batch(
    targets: Sequence[int],
    *,
    seed: int = 0,
    scale: float = 1 / 0.07,
    dtype: torch.dtype = torch.float64,
    mask: Sequence[bool] | None = None,
) -> LossInputs:
    """Random features; all float tensors are leaves with gradient."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(len(targets), DIM, generator=generator, dtype=dtype)
    texts = torch.randn(CLASSES, DIM, generator=generator, dtype=dtype)
    return LossInputs(
        image_features=F.normalize(image, dim=1).requires_grad_(),
        class_features=F.normalize(texts, dim=1).requires_grad_(),
        targets=torch.tensor(targets),
        logit_scale=torch.tensor(scale, dtype=dtype, requires_grad=True),
        image_embeddings=(3 * image).requires_grad_(),
        class_tokens=TOKENS,
        mask=None if mask is None else torch.tensor(mask),
        generator=torch.Generator().manual_seed(seed),
    )


def leaves(inputs: LossInputs) -> tuple[Tensor, ...]:
    """Image features, texts, scale, embeddings."""
    assert inputs.class_features is not None
    assert inputs.image_embeddings is not None
    return (
        inputs.image_features,
        inputs.class_features,
        inputs.logit_scale,
        inputs.image_embeddings,
    )


def gradients(value: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a scalar; zero where it does not depend on a leaf."""
    found = torch.autograd.grad(value, list(of), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(of, found, strict=True)]


def assert_same(ours: Tensor, reference: Tensor, inputs: LossInputs) -> None:
    """Equal values and equal gradients of every input."""
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    pairs = zip(gradients(ours, leaves(inputs)), gradients(reference, leaves(inputs)), strict=True)
    for our_gradient, reference_gradient in pairs:
        torch.testing.assert_close(our_gradient, reference_gradient, rtol=1e-10, atol=1e-11)
