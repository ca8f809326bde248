"""The losses of a config in words, for a methods paragraph and for tables."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from clip_pkg.config.schema import RunConfig

WEIGHTINGS: Mapping[str, str] = MappingProxyType(
    {
        "inverse_freq": "inversely to class frequency",
        "inverse_sqrt": "inversely to the square root of class frequency",
        "balanced": "inversely to class frequency",
        "effective_number": "by the effective number of samples (Cui et al. 2019, β = 0.9999)",
    }
)


def loss_phrase(config: RunConfig) -> str:
    """What was minimised, with class weights and auxiliary losses."""
    words = config.loss.phrase()
    weighting = config.loss.class_weight_method(config.weight_method)
    if weighting is not None:
        words += f", with classes weighted {WEIGHTINGS[weighting]}"
    for aux in config.aux_losses:
        words += f", plus {aux.weight:g} times {aux.phrase()}"
    if config.label_smoothing:
        words += f", with label smoothing of {config.label_smoothing:g}"
    return words


def short_loss(config: RunConfig) -> str:
    """Types of the losses for a table: `superclip + center`."""
    return " + ".join([config.loss.type, *(aux.type for aux in config.aux_losses)])
