"""Every loss of this project that open_clip, lightly or pytorch-metric-learning has as well.

A pair makes both sides from one batch, with the same settings and weights. Objectives are listed
where they compute something else than a function that is listed already.

Legend: B batch, D embedding size, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightly.loss
from pytorch_metric_learning import losses, reducers
from torch import Tensor

from benchmarks import loss_sides as sides
from benchmarks.loss_batch import IMAGES_PER_LABEL, TEMPERATURE, Batch
from clip_pkg.losses import functional


@dataclass(frozen=True)
class Pair:
    """One loss of ours and the same of somebody else.

    Args:
        ours: name in `clip_pkg.losses.functional` or of an objective, then which form of it.
        package: whose the other one is.
        peer: what it is called there.
        make: builds both.
        differs: why the two do not agree on every batch; empty if they do. They then agree on
            batches whose targets are all different.
        remark: what else the reader of a result should know.
        peer_numbers: size of the largest tensor that the peer needs, where that grows faster
            than B².
    """

    ours: str
    package: str
    peer: str
    make: Callable[[Batch], sides.Sides]
    differs: str = ""
    remark: str = ""
    peer_numbers: Callable[[int], int] | None = None

    @property
    def name(self) -> str:
        """Of the loss, without the form of it."""
        return self.ours.split()[0]


def _metric(ours: str, peer: str, *arguments: Any, **rest: Any) -> Pair:
    return Pair(ours, "pytorch-metric-learning", peer, *arguments, **rest)


def _lightly(ours: str, peer: str, *arguments: Any, **rest: Any) -> Pair:
    return Pair(ours, "lightly", peer, *arguments, **rest)


def _open_clip(ours: str, peer: str, *arguments: Any, **rest: Any) -> Pair:
    return Pair(ours, "open_clip_torch", peer, *arguments, **rest)


def _at(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return partial(loss, temperature=TEMPERATURE)


_pml_vicreg = losses.VICRegLoss()
_pml_nt_xent = losses.NTXentLoss(TEMPERATURE)
_per_label = IMAGES_PER_LABEL - 1

PAIRS = (
    _open_clip("clip", "ClipLoss", sides.clip),
    _open_clip("clip objective", "ClipLoss", sides.clip_objective),
    _open_clip("siglip", "SigLipLoss", sides.siglip),
    _open_clip(
        "siglip objective",
        "SigLipLoss",
        sides.siglip_objective,
        differs="the peer counts another image's text as a negative even where it is the same text",
    ),
    _metric("multi_positive_clip", "SupConLoss, both ways", sides.multi_positive_clip),
    _metric(
        "supcon",
        "SupConLoss",
        partial(sides.labelled, _at(functional.supcon), losses.SupConLoss(TEMPERATURE)),
    ),
    _metric(
        "supcon_mean_over_batch",
        "SupConLoss, MeanReducer",
        partial(
            sides.labelled,
            _at(functional.supcon_mean_over_batch),
            losses.SupConLoss(TEMPERATURE, reducer=reducers.MeanReducer()),
        ),
    ),
    _metric("supcon objective", "SupConLoss", sides.supcon_objective),
    _lightly(
        "nt_xent",
        "NTXentLoss",
        partial(sides.between, _at(functional.nt_xent), lightly.loss.NTXentLoss(TEMPERATURE)),
    ),
    _metric(
        "nt_xent",
        "SelfSupervisedLoss, NTXentLoss",
        partial(sides.between, _at(functional.nt_xent), losses.SelfSupervisedLoss(_pml_nt_xent)),
        peer_numbers=lambda size: (2 * size) * (2 * size) * (2 * size - 2),
    ),
    _metric(
        "nt_xent_labels",
        "NTXentLoss",
        partial(sides.labelled, _at(functional.nt_xent_labels), _pml_nt_xent),
        peer_numbers=lambda size: size * _per_label * size * (size - IMAGES_PER_LABEL),
    ),
    _metric(
        "info_nce",
        "SelfSupervisedLoss, NTXentLoss, one way",
        partial(
            sides.between,
            _at(functional.info_nce),
            losses.SelfSupervisedLoss(_pml_nt_xent, symmetric=False),
        ),
        peer_numbers=lambda size: size * size * (size - 1),
    ),
    _metric("info_nce", "NPairsLoss", sides.npairs),
    _lightly(
        "info_nce_sampled_negatives",
        "NTXentLoss, memory bank",
        sides.memory_bank,
        remark="the peer also copies the negatives, and puts the batch in the place of the oldest",
    ),
    _lightly(
        "dcl_symmetric",
        "DCLLoss",
        partial(sides.between, _at(functional.dcl_symmetric), lightly.loss.DCLLoss(TEMPERATURE)),
    ),
    _lightly(
        "dclw_symmetric",
        "DCLWLoss",
        partial(sides.between, _at(functional.dclw_symmetric), lightly.loss.DCLWLoss(TEMPERATURE)),
    ),
    _lightly(
        "vicreg", "VICRegLoss", partial(sides.between, functional.vicreg, lightly.loss.VICRegLoss())
    ),
    _metric(
        "vicreg",
        "VICRegLoss",
        partial(
            sides.between,
            functional.vicreg,
            lambda a, b: _pml_vicreg(a, ref_emb=b),
        ),
    ),
    _metric(
        "proxy_anchor",
        "ProxyAnchorLoss",
        partial(sides.with_class_vectors, functional.proxy_anchor, losses.ProxyAnchorLoss),
    ),
    _metric(
        "arcface",
        "ArcFaceLoss",
        partial(
            sides.with_class_vectors,
            partial(functional.arcface, margin_degrees=28.6),
            losses.ArcFaceLoss,
        ),
    ),
    _metric(
        "cosface",
        "CosFaceLoss",
        partial(sides.with_class_vectors, functional.cosface, losses.CosFaceLoss),
    ),
    _metric(
        "triplet batch_hard",
        "TripletMarginLoss, BatchHardMiner",
        sides.triplet("batch_hard"),
    ),
    _metric("triplet batch_all", "TripletMarginLoss", sides.triplet("batch_all")),
    _metric("triplet swap", "TripletMarginLoss, swap", sides.triplet("batch_all", swap=True)),
    _metric(
        "triplet soft_margin",
        "TripletMarginLoss, smooth_loss",
        sides.triplet("batch_all", soft_margin=True),
    ),
    _metric("triplet_explicit", "TripletMarginLoss, given triplets", sides.triplet_explicit),
    _metric("ce objective", "NormalizedSoftmaxLoss", sides.ce_objective),
    _metric(
        "weighted_cross_entropy",
        "NormalizedSoftmaxLoss, ClassWeightedReducer",
        sides.weighted_cross_entropy,
    ),
    _lightly(
        "cosine_sim objective",
        "NegativeCosineSimilarity, plus 1",
        sides.cosine_sim_objective,
        remark="alone, ours computes the cosines to all classes; in training it takes those that "
        "the main loss computes anyway",
    ),
)

WITHOUT_PEER = (
    "bce_pos_neg",
    "center_half",
    "center_mean",
    "class_text_bce",
    "class_text_info_nce",
    "dcl_oneway",
    "dclw_oneway",
    "dclw_oneway_undetached",
    "dhel",
    "focal",
    "focal_proxy_anchor",
    "kcl_gaussian",
    "sampled_softmax_collision_masked",
    "superclip",
    "token_classification",
)
"""Losses of ours that none of the three has; lightly has the one-way forms inside of others."""
