"""Losses as a paper would name them: a phrase for each `type`, with the settings that matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from clip_pkg.config.schema import RunConfig

WEIGHTINGS = MappingProxyType(
    {
        "inverse_freq": "inversely to class frequency",
        "inverse_sqrt": "inversely to the square root of class frequency",
        "balanced": "inversely to class frequency",
        "effective_number": "by the effective number of samples (Cui et al. 2019, β = 0.9999)",
    }
)


def number(value: float) -> str:
    """A setting in the fewest digits: `0.001`, `1e-05`, `32`."""
    return f"{value:g}"


def _classifier(loss: Any) -> str:
    if loss.classifier == "linear":
        return "a linear layer on the image embedding"
    return "scaled cosines of image and class-text features"


def _superclip(loss: Any) -> str:
    form = "a cross-entropy"
    if loss.focal is not None:
        form = f"a focal loss (γ = {number(loss.focal.gamma)})"
    return (
        f"the weighted sum of {form} over image–class-text logits (weight "
        f"{number(loss.class_loss_weight)}) and a CLIP loss (weight "
        f"{number(loss.contrastive_loss_weight)}), after SuperCLIP (Zhao et al. 2025)"
    )


def _superclip_tokens(loss: Any) -> str:
    return (
        "SuperCLIP (Zhao et al. 2025), the weighted sum of a classification of the text tokens by "
        f"the image (weight {number(loss.class_loss_weight)}) and a CLIP loss (weight "
        f"{number(loss.contrastive_loss_weight)})"
    )


def _proxy_name(loss: Any) -> str:
    focal = "focal-style " if loss.proxy_type == "FocalStyleProxyAnchorLoss" else ""
    return (
        f"{focal}Proxy-Anchor loss (Kim et al. 2020; α = {number(loss.alpha)}, δ = "
        f"{number(loss.delta)})"
    )


def _negatives(loss: Any) -> str:
    if loss.num_negatives is None:
        return "the texts of the batch's other classes as negatives"
    return f"{loss.num_negatives} sampled class texts as negatives"


MAIN: Mapping[str, Callable[[Any], str]] = MappingProxyType(
    {
        "clip": lambda _: (
            "the symmetric image–text contrastive loss of CLIP (Radford et al. 2021), in which all "
            "pairs of one class match"
            if _.positives == "same_class"
            else "the symmetric image–text contrastive loss of CLIP (Radford et al. 2021)"
        ),
        "superclip": _superclip,
        "superclip_tokens": _superclip_tokens,
        "siglip": lambda _: "the pairwise sigmoid loss of SigLIP (Zhai et al. 2023)",
        "supcon": lambda loss: (
            "the supervised contrastive loss (Khosla et al. 2020) over images and class texts "
            f"(temperature {number(loss.temperature)})"
        ),
        "ce": lambda loss: f"cross-entropy on {_classifier(loss)}",
        "focal": lambda loss: (
            f"focal loss (Lin et al. 2017; γ = {number(loss.gamma)}) on {_classifier(loss)}"
        ),
        "ce_infonce": lambda loss: (
            f"cross-entropy on {_classifier(loss)} plus {number(loss.contrast_weight)} times an "
            "InfoNCE loss of image against class-text features (temperature "
            f"{number(loss.infonce_temp)})"
        ),
        "proxy": lambda loss: f"the {_proxy_name(loss)}",
        "combined": lambda loss: (
            f"{number(loss.lambda_combined)} times cross-entropy on {_classifier(loss)} plus "
            f"{number(1 - loss.lambda_combined)} times the {_proxy_name(loss)}"
        ),
        "infonce": lambda loss: (
            f"InfoNCE (van den Oord et al. 2018) with {_negatives(loss)} (temperature "
            f"{number(loss.temperature)})"
        ),
        "bce": lambda loss: (
            f"binary cross-entropy on image–text pairs with {_negatives(loss)} (temperature "
            f"{number(loss.temperature)})"
        ),
    }
)
AUXILIARY: Mapping[str, str] = MappingProxyType(
    {
        "center": "a center loss (Wen et al. 2016)",
        "triplet": "a triplet loss (Hermans et al. 2017)",
        "arcface": "an ArcFace loss (Deng et al. 2019)",
        "cosface": "a CosFace loss (Wang et al. 2018)",
        "cosine_sim": "a cosine loss between image and class text",
    }
)


def loss_phrase(config: RunConfig) -> str:
    """What was minimised, with class weights and auxiliary losses."""
    words = MAIN[config.loss.type](config.loss)
    weighting = getattr(config.loss, "class_weighting", "none")
    if weighting == "auto":
        weighting = config.weight_method
    if weighting != "none":
        words += f", with classes weighted {WEIGHTINGS[weighting]}"
    for aux in config.aux_losses:
        words += f", plus {number(aux.weight)} times {AUXILIARY[aux.type]}"
    if config.label_smoothing:
        words += f", with label smoothing of {number(config.label_smoothing)}"
    return words


def short_loss(config: RunConfig) -> str:
    """Types of the losses for a table: `superclip + center`."""
    return " + ".join([config.loss.type, *(aux.type for aux in config.aux_losses)])
