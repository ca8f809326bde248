"""Flat keys that the training guides use in place of the nested `loss` and `aux_losses`.

The only module that knows them (with `aux_dialect` and `pretrain_dialect`): behind it every config
has the canonical form. A dialect is a row of `DIALECTS`: a class whose fields are its flat keys,
checked as strictly as the config itself, and tables that say what they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from clip_pkg.config.jsonc import JsonPath
from clip_pkg.config.loss_blocks import NonNegative, Positive, Temperature
from clip_pkg.config.losses import loss_classes

if TYPE_CHECKING:
    Kind: TypeAlias = str
else:
    Kind = Literal[tuple(loss_classes())]

UNSET: Any = ""  # a selector that is left out chooses nothing


class Dialect(BaseModel):
    """Flat keys of one guide.

    selector: the key that chooses the loss.
    blocks: value of the selector → `loss` block that it starts. A switch that is false next to a
        selector that does choose only says what the loss is not.
    parameters: every other key → its place inside that block. A parameter of a loss that is not
        chosen is allowed and has no effect, so that one switch can be flipped without deleting it.
    further_kinds: losses besides those of `blocks` that the parameters are about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    selector: ClassVar[str]
    blocks: ClassVar[Mapping[Any, Mapping[str, Any]]]
    parameters: ClassVar[Mapping[str, JsonPath]]
    further_kinds: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def has_parameter(cls, key: str, kind: str) -> bool:
        """Whether the loss `kind` has what the flat `key` sets."""
        kinds = {block["type"] for block in cls.blocks.values()} | cls.further_kinds
        return kind in kinds and cls.parameters[key][0] in loss_classes()[kind].model_fields


class SuperClipDialect(Dialect):
    """The switch and the two weights of the SuperCLIP training guide."""

    selector = "use_superclip_loss"
    blocks = {True: {"type": "superclip"}, False: {"type": "clip"}}
    parameters = {
        "class_loss_weight": ("class_loss_weight",),
        "contrastive_loss_weight": ("contrastive_loss_weight",),
    }
    further_kinds = frozenset({"superclip_tokens"})

    use_superclip_loss: bool = Field(
        False, description="true: loss `superclip`; false: loss `clip`."
    )
    class_loss_weight: NonNegative = Field(
        1.0, description="Weight of the classification part of `superclip(_tokens)`."
    )
    contrastive_loss_weight: NonNegative = Field(
        1.0, description="Weight of the CLIP part of `superclip(_tokens)`."
    )


class MainLossDialect(Dialect):
    """The choice by name and the two settings of the CE+InfoNCE guide."""

    selector = "main_loss_type"
    blocks = {kind: {"type": kind} for kind in loss_classes()}
    parameters = {"contrast_weight": ("contrast_weight",), "infonce_temp": ("infonce_temp",)}

    main_loss_type: Kind = Field(UNSET, description="The loss, with the settings it has by itself.")
    contrast_weight: NonNegative = Field(
        0.5, description="Weight of the InfoNCE part of `ce_infonce`."
    )
    infonce_temp: Temperature = Field(
        0.07, description="Temperature of the InfoNCE part of `ce_infonce`."
    )


def _loss_type(value: Any) -> Any:
    """Spell the name of a loss as the guide does, whatever its case."""
    spellings = {"ce": "CE", "proxy": "proxy", "combined": "combined"}
    return spellings.get(value.casefold(), value) if isinstance(value, str) else value


class ProxyDialect(Dialect):
    """The choice and the settings of the Proxy-Anchor guide."""

    selector = "loss_type"
    blocks = {
        "CE": {"type": "ce"},
        "proxy": {"type": "proxy"},
        "combined": {"type": "combined"},
    }
    parameters = {
        "proxy_type": ("proxy_type",),
        "proxy_alpha": ("alpha",),
        "proxy_delta": ("delta",),
        "proxy_gamma_pos": ("gamma_pos",),
        "proxy_gamma_neg": ("gamma_neg",),
        "lambda_combined": ("lambda_combined",),
    }

    loss_type: Annotated[Literal["CE", "proxy", "combined"], BeforeValidator(_loss_type)] = Field(
        UNSET, description="Loss `ce`, `proxy` or `combined`; upper or lower case."
    )
    proxy_type: Literal["ProxyAnchorLoss", "FocalStyleProxyAnchorLoss"] = Field(
        "ProxyAnchorLoss", description="Form of the proxy loss."
    )
    proxy_alpha: Positive = Field(32.0, description="α of the proxy loss.")
    proxy_delta: NonNegative = Field(0.1, le=2, description="δ of the proxy loss.")
    proxy_gamma_pos: NonNegative = Field(2.0, description="γ⁺ of `FocalStyleProxyAnchorLoss`.")
    proxy_gamma_neg: NonNegative = Field(2.0, description="γ⁻ of `FocalStyleProxyAnchorLoss`.")
    lambda_combined: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="λ of `combined`: share of the cross-entropy."
    )


class InfoNceDialect(Dialect):
    """The switch and the settings of the guide that sets InfoNCE against BCE."""

    selector = "use_infonce"
    blocks = {True: {"type": "infonce"}, False: {"type": "bce"}}
    parameters = {
        "infonce_temperature": ("temperature",),
        "num_negatives": ("num_negatives",),
    }

    use_infonce: bool = Field(
        UNSET,
        description=(
            "true: loss `infonce`; false: loss `bce`, on the same pairs. Left out, it chooses "
            "neither."
        ),
    )
    infonce_temperature: Temperature = Field(0.2, description="Temperature of `infonce` and `bce`.")
    num_negatives: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        None, description="Sampled negatives of `infonce` and `bce`; null: those of the batch."
    )


DIALECTS: tuple[type[Dialect], ...] = (
    SuperClipDialect,
    MainLossDialect,
    ProxyDialect,
    InfoNceDialect,
)
