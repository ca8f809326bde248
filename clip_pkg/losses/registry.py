"""One row per objective: how it is built, and what people and the engine have to know of it.

The keys are the kinds (`type`) of the config's unions in `clip_pkg.config.losses` and
`clip_pkg.config.losses`. What an objective can be combined with is said by its config class,
because a config is checked against it before torch is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from clip_pkg.config.loss_blocks import LossConfig, SoftTargets, WeightMethod
from clip_pkg.config.losses import (
    ArcFaceConfig,
    AuxConfig,
    BceLossConfig,
    CeInfoNceLossConfig,
    CeLossConfig,
    CenterConfig,
    ClipLossConfig,
    CombinedLossConfig,
    CosFaceConfig,
    CosineSimConfig,
    FocalLossConfig,
    InfoNceLossConfig,
    ProxyLossConfig,
    SigLipLossConfig,
    SupConLossConfig,
    SuperClipLossConfig,
    SuperClipTokensLossConfig,
    TripletConfig,
)
from clip_pkg.losses.auxiliary import (
    build_arcface,
    build_center,
    build_cosface,
    build_cosine_sim,
    build_triplet,
)
from clip_pkg.losses.classification import build_ce, build_ce_infonce, build_focal
from clip_pkg.losses.contract import ComposedObjective, Objective, PartLabel, TrainingSet
from clip_pkg.losses.image_text import (
    build_bce,
    build_clip,
    build_infonce,
    build_siglip,
    build_supcon,
)
from clip_pkg.losses.proxies import build_combined, build_proxy
from clip_pkg.losses.superclip import build_superclip, build_superclip_tokens


@dataclass(frozen=True)
class LossRow:
    """One objective.

    config_class: its block in the config.
    build: (config block, training set) -> objective.
    parts: its unweighted parts by name, and how people see them.
    source: paper and equation.
    owns_parameters: always has parameters that must reach the optimiser and the checkpoint; others
        may, by their settings.
    needs_two_views: wants two augmented views of each image.
    can_be_recorded: never waits for the device, and shapes do not depend on values, so that a
        device can repeat it by itself.
    """

    config_class: type[LossConfig]
    build: Callable[[Any, TrainingSet], Objective]
    parts: Mapping[str, PartLabel]
    source: str
    owns_parameters: bool = False
    needs_two_views: bool = False
    can_be_recorded: bool = True

    @property
    def smallest_batch(self) -> int:
        """Images per training batch below which it teaches nothing."""
        return self.config_class.smallest_batch

    @property
    def soft_targets(self) -> SoftTargets:
        """What it makes of mixed or smoothed labels; see `LossConfig`."""
        return self.config_class.soft_targets

    @property
    def needs_tokens(self) -> bool:
        """Whether it reads the token ids of the class texts."""
        return self.config_class.needs_tokens


CONTRASTIVE = PartLabel("Contrastive", "clip", "Loss/Contrastive")
CLASS = PartLabel("Class", "cls", "Loss/Class")
CE = PartLabel("CE", "ce", "Loss/CE")
INFONCE = PartLabel("InfoNCE", "nce", "Loss/InfoNCE")
PROXY = PartLabel("Proxy", "proxy", "Loss/Proxy")

LOSSES: Mapping[str, LossRow] = MappingProxyType(
    {
        "clip": LossRow(
            ClipLossConfig,
            build_clip,
            {"contrastive": CONTRASTIVE},
            "Radford et al. 2021, arXiv:2103.00020, figure 3",
        ),
        "superclip": LossRow(
            SuperClipLossConfig,
            build_superclip,
            {"class": CLASS, "contrastive": CONTRASTIVE},
            "Zhao et al. 2025, arXiv:2512.14480; focal form: Lin et al. 2017, equation 5",
        ),
        "superclip_tokens": LossRow(
            SuperClipTokensLossConfig,
            build_superclip_tokens,
            {"class": CLASS, "contrastive": CONTRASTIVE},
            "Zhao et al. 2025, arXiv:2512.14480, section 3",
            owns_parameters=True,
        ),
        "siglip": LossRow(
            SigLipLossConfig,
            build_siglip,
            {"siglip": PartLabel("SigLIP", "siglip", "Loss/SigLIP")},
            "Zhai et al. 2023, arXiv:2303.15343, algorithm 1",
            owns_parameters=True,
        ),
        "supcon": LossRow(
            SupConLossConfig,
            build_supcon,
            {"supcon": PartLabel("SupCon", "supcon", "Loss/SupCon")},
            "Khosla et al. 2020, arXiv:2004.11362, equation 2",
        ),
        "ce": LossRow(
            CeLossConfig,
            build_ce,
            {"ce": CE},
            "label smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7",
        ),
        "focal": LossRow(
            FocalLossConfig,
            build_focal,
            {"focal": PartLabel("Focal", "focal", "Loss/Focal")},
            "Lin et al. 2017, arXiv:1708.02002, equation 5",
        ),
        "ce_infonce": LossRow(
            CeInfoNceLossConfig,
            build_ce_infonce,
            {"ce": CE, "infonce": INFONCE},
            "InfoNCE: van den Oord et al. 2018, arXiv:1807.03748, equation 4",
        ),
        "proxy": LossRow(
            ProxyLossConfig,
            build_proxy,
            {"proxy": PROXY},
            "Kim et al. 2020, arXiv:2003.13911, equation 4",
            owns_parameters=True,
        ),
        "combined": LossRow(
            CombinedLossConfig,
            build_combined,
            {"ce": CE, "proxy": PROXY},
            "Proxy-Anchor: Kim et al. 2020, arXiv:2003.13911, equation 4",
            owns_parameters=True,
        ),
        "infonce": LossRow(
            InfoNceLossConfig,
            build_infonce,
            {"infonce": INFONCE},
            "van den Oord et al. 2018, arXiv:1807.03748, equation 4",
        ),
        "bce": LossRow(
            BceLossConfig,
            build_bce,
            {"bce": PartLabel("BCE", "bce", "Loss/BCE")},
            "Kang and McAuley 2018, arXiv:1808.09781, section III-E",
        ),
    }
)

AUXILIARY: Mapping[str, LossRow] = MappingProxyType(
    {
        "center": LossRow(
            CenterConfig,
            build_center,
            {"center": PartLabel("Center", "center", "Loss/Center")},
            "Wen et al. 2016, ECCV, equation 2",
            owns_parameters=True,
        ),
        "triplet": LossRow(
            TripletConfig,
            build_triplet,
            {"triplet": PartLabel("Triplet", "triplet", "Loss/Triplet")},
            "Hermans et al. 2017, arXiv:1703.07737, equations 5 and 6",
        ),
        "arcface": LossRow(
            ArcFaceConfig,
            build_arcface,
            {"arcface": PartLabel("ArcFace", "arcface", "Loss/ArcFace")},
            "Deng et al. 2019, arXiv:1801.07698, equation 3",
            owns_parameters=True,
        ),
        "cosface": LossRow(
            CosFaceConfig,
            build_cosface,
            {"cosface": PartLabel("CosFace", "cosface", "Loss/CosFace")},
            "Wang et al. 2018, arXiv:1801.09414, equation 4",
            owns_parameters=True,
        ),
        "cosine_sim": LossRow(
            CosineSimConfig,
            build_cosine_sim,
            {"cosine_sim": PartLabel("CosineSim", "cos", "Loss/CosineSim")},
            "1 − cosine, as torch.nn.CosineEmbeddingLoss for matching pairs",
        ),
    }
)


def part_labels(
    loss_config: LossConfig, aux_losses: Sequence[AuxConfig] = ()
) -> Mapping[str, PartLabel]:
    """How people see every part of the total, in the order of `LossOutput.parts`."""
    rows = [LOSSES[loss_config.type], *(AUXILIARY[aux.type] for aux in aux_losses)]
    return {name: label for row in rows for name, label in row.parts.items()}


def class_weight_method(
    loss_config: LossConfig, weight_method: WeightMethod
) -> WeightMethod | None:
    """How the class weights in `TrainingSet.class_weights` are to be made for this objective.

    Args:
        loss_config: the config's `loss` block.
        weight_method: the config's own, which `class_weighting: auto` refers to.

    Returns:
        The method, or None when the objective takes no class weights.
    """
    chosen: WeightMethod | str | None = getattr(loss_config, "class_weighting", None)
    if chosen is None or chosen == "none":
        return None
    return weight_method if chosen == "auto" else chosen  # type: ignore[return-value]


def build_objective(
    loss_config: LossConfig, training_set: TrainingSet, aux_losses: Sequence[AuxConfig] = ()
) -> ComposedObjective:
    """Build the objective that a config's `loss` and `aux_losses` describe.

    Random weights come from torch's global generator, in the order of the config.
    """
    main = LOSSES[loss_config.type].build(loss_config, training_set)
    return ComposedObjective(
        main,
        {
            aux.type: (aux.weight, AUXILIARY[aux.type].build(aux, training_set))
            for aux in aux_losses
        },
    )
