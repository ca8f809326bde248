"""Older spellings of config keys, translated to the canonical form. Only this module knows them.

`FlatKeys` holds every older key: its type, default and description, and in its annotation what it
stands for. Three things can be written in flat keys:

- the main loss: keys marked `Chooses` and `Sets`, beside each other or beside a `loss` block with
  the same meaning;
- names in `aux_losses`, with their weights in `aux_weights`;
- `loss_func`, the loss of the `pretrain` block.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from clip_pkg.config.diagnostics import Draft, Findings
from clip_pkg.config.jsonc import JsonPath, show
from clip_pkg.config.loss_blocks import NonNegative, Positive, Temperature
from clip_pkg.config.losses import LOSSES
from clip_pkg.config.nodes import sentences
from clip_pkg.config.two_view_losses import TWO_VIEW_LOSSES

if TYPE_CHECKING:
    LossKind: TypeAlias = str
    PretrainKind: TypeAlias = str
else:
    LossKind = Literal[tuple(LOSSES)]
    PretrainKind = Literal[tuple(TWO_VIEW_LOSSES)]

UNSET: Any = ""  # default of a key that chooses a loss: chooses none


@dataclass(frozen=True, eq=False)
class Chooses:
    """The key chooses the main loss: its value → `loss.type`.

    A switch that is false only counts where no other key chooses a loss.
    """

    kinds: Mapping[Hashable, str]


@dataclass(frozen=True)
class Sets:
    """The key sets one parameter of the losses in `of`, which `chosen_by` usually chooses.

    For any other loss it is allowed and has no effect, so that one switch can be flipped without
    deleting the rest.
    """

    parameter: str
    of: tuple[str, ...]
    chosen_by: str


_SUPERCLIP = ("superclip", "superclip_tokens"), "use_superclip_loss"
_CE_INFONCE = ("ce_infonce",), "main_loss_type"
_PROXY = ("proxy", "combined"), "loss_type"
_PAIRS = ("infonce", "bce"), "use_infonce"
_LOSS_TYPES = {"CE": "ce", "proxy": "proxy", "combined": "combined"}


def _ignoring_case(value: Any) -> Any:
    spellings = {kind.casefold(): kind for kind in _LOSS_TYPES}
    return spellings.get(value.casefold(), value) if isinstance(value, str) else value


class FlatKeys(BaseModel):
    """Every older key, in the order of the training guides that use them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    use_superclip_loss: Annotated[bool, Chooses({True: "superclip", False: "clip"})] = Field(
        False, description="true: loss `superclip`; false: loss `clip`."
    )
    class_loss_weight: Annotated[NonNegative, Sets("class_loss_weight", *_SUPERCLIP)] = Field(
        1.0, description="Weight of the classification term of `superclip` and `superclip_tokens`."
    )
    contrastive_loss_weight: Annotated[
        NonNegative, Sets("contrastive_loss_weight", *_SUPERCLIP)
    ] = Field(1.0, description="Weight of the CLIP term of `superclip` and `superclip_tokens`.")

    main_loss_type: Annotated[LossKind, Chooses({kind: kind for kind in LOSSES})] = Field(
        UNSET, description="`loss.type`; the other settings of the loss have their defaults."
    )
    contrast_weight: Annotated[NonNegative, Sets("contrast_weight", *_CE_INFONCE)] = Field(
        0.5, description="Weight of the InfoNCE term of `ce_infonce`."
    )
    infonce_temp: Annotated[Temperature, Sets("infonce_temp", *_CE_INFONCE)] = Field(
        0.07, description="Temperature of the InfoNCE term of `ce_infonce`."
    )

    loss_type: Annotated[
        Literal["CE", "proxy", "combined"], BeforeValidator(_ignoring_case), Chooses(_LOSS_TYPES)
    ] = Field(UNSET, description="Loss `ce`, `proxy` or `combined`; upper or lower case.")
    proxy_type: Annotated[
        Literal["ProxyAnchorLoss", "FocalStyleProxyAnchorLoss"], Sets("proxy_type", *_PROXY)
    ] = Field("ProxyAnchorLoss", description="Form of the proxy loss.")
    proxy_alpha: Annotated[Positive, Sets("alpha", *_PROXY)] = Field(
        32.0, description="α of the proxy loss."
    )
    proxy_delta: Annotated[NonNegative, Sets("delta", *_PROXY)] = Field(
        0.1, le=2, description="δ of the proxy loss."
    )
    proxy_gamma_pos: Annotated[NonNegative, Sets("gamma_pos", *_PROXY)] = Field(
        2.0, description="γ⁺ of `FocalStyleProxyAnchorLoss`."
    )
    proxy_gamma_neg: Annotated[NonNegative, Sets("gamma_neg", *_PROXY)] = Field(
        2.0, description="γ⁻ of `FocalStyleProxyAnchorLoss`."
    )
    lambda_combined: Annotated[
        float, Field(ge=0, le=1), Sets("lambda_combined", ("combined",), "loss_type")
    ] = Field(0.5, description="λ of `combined`: share of the cross-entropy.")

    use_infonce: Annotated[bool, Chooses({True: "infonce", False: "bce"})] = Field(
        UNSET,
        description=(
            "true: loss `infonce`; false: loss `bce`, on the same pairs. Without it, neither is "
            "chosen."
        ),
    )
    infonce_temperature: Annotated[Temperature, Sets("temperature", *_PAIRS)] = Field(
        0.2, description="Temperature of `infonce` and `bce`."
    )
    num_negatives: Annotated[
        Annotated[int, Field(ge=1, le=65536)] | None, Sets("num_negatives", *_PAIRS)
    ] = Field(
        None,
        description="Sampled negatives of `infonce` and `bce`; null: the texts of the batch.",
    )

    aux_weights: list[NonNegative] = Field(
        [], description="Weights of the losses in `aux_losses`, in the same order."
    )
    loss_func: PretrainKind = Field(
        UNSET, description="`pretrain.loss.type`; creates the `pretrain` block if there is none."
    )


def _marked(mark: type[Any]) -> dict[str, Any]:
    return {
        key: found
        for key, field in FlatKeys.model_fields.items()
        for found in field.metadata
        if isinstance(found, mark)
    }


CHOICES: Mapping[str, Chooses] = _marked(Chooses)
PARAMETERS: Mapping[str, Sets] = _marked(Sets)


def to_canonical(draft: Draft, findings: Findings) -> Draft:
    """Replace the flat keys by the blocks `loss`, `aux_losses` and `pretrain`.

    Wrong values and contradictions become problems at the flat key; the result has no flat keys in
    any case.
    """
    flat = {key: value for key, value in draft.values.items() if key in FlatKeys.model_fields}
    rest = {key: value for key, value in draft.values.items() if key not in FlatKeys.model_fields}
    given: dict[str, Any] = {}  # what is valid, in the spelling of `FlatKeys`
    wrong: set[str] = set()
    try:
        checked = FlatKeys.model_validate(flat)
        given = {key: getattr(checked, key) for key in flat}
    except ValidationError as error:
        for path, sentence in sentences(error, FlatKeys, ()).items():
            findings.problem(draft.written(path), sentence)
            wrong.add(str(path[0]))
        valid = {key: value for key, value in flat.items() if key not in wrong}
        checked = FlatKeys.model_validate(valid)
        given = {key: getattr(checked, key) for key in valid}
    moved: dict[JsonPath, JsonPath] = {}
    if not wrong & {*CHOICES, *PARAMETERS}:
        main = {key: value for key, value in given.items() if key in CHOICES or key in PARAMETERS}
        if "loss" in rest:
            _compare_with_block(main, rest["loss"], draft, findings)
        elif main:
            rest |= _main_loss(main, draft, findings, moved)
    rest |= _aux_losses(rest, given.get("aux_weights"), draft, findings, moved)
    if "loss_func" in given:
        rest |= _pretrain(rest, given["loss_func"], draft, findings, moved)
    return replace(draft, values=rest, moved={**draft.moved, **moved})


def _firm_choices(given: Mapping[str, Any]) -> dict[str, str]:
    """Keys that choose a loss → its kind; switches that are false do not count."""
    return {
        key: choice.kinds[given[key]]
        for key, choice in CHOICES.items()
        if key in given and given[key] is not False
    }


def _denials(given: Mapping[str, Any], kind: str | None) -> list[str]:
    """Switches that are false although `kind` is the loss that they switch on."""
    return [
        key
        for key, choice in CHOICES.items()
        if given.get(key) is False and choice.kinds[True] == kind
    ]


def _used_parameters(
    given: Mapping[str, Any], kind: str | None, draft: Draft, findings: Findings
) -> dict[str, Sets]:
    """Given parameters that the loss `kind` has; notes those that have no effect."""
    used: dict[str, Sets] = {}
    for key, row in PARAMETERS.items():
        if key not in given:
            continue
        if kind in row.of:
            used[key] = row
            continue
        kinds = CHOICES[row.chosen_by].kinds
        values = " or ".join(show(value) for value, chosen in kinds.items() if chosen in row.of)
        findings.notice(
            draft.written((key,)),
            f"has no effect here; it is used when {row.chosen_by} is {values}",
        )
    return used


def _main_loss(
    given: Mapping[str, Any],
    draft: Draft,
    findings: Findings,
    moved: dict[JsonPath, JsonPath],
) -> dict[str, Any]:
    """Build the `loss` block from flat keys alone."""
    choices = _firm_choices(given) or {
        key: choice.kinds[False] for key, choice in CHOICES.items() if key in given
    }
    kind: str | None = None
    chooser: JsonPath = ()
    for key, chosen in choices.items():
        place = draft.written((key,))
        if kind is None:
            kind, chooser = chosen, place
        elif chosen != kind:
            other = findings.source.where(chooser)
            findings.problem(place, f"chooses a different loss than {other}; keep one of the two")
    for key in _denials(given, kind):
        other = findings.source.where(chooser)
        findings.problem(
            draft.written((key,)), f"is false, but {other} chooses that loss; keep one of the two"
        )
    parameters = _used_parameters(given, kind, draft, findings)
    if kind is None:
        return {}
    moved["loss",] = moved["loss", "type"] = chooser
    for key, row in parameters.items():
        moved["loss", row.parameter] = draft.written((key,))
    block = {row.parameter: given[key] for key, row in parameters.items()}
    return {"loss": {"type": kind, **block}}


def _compare_with_block(
    given: Mapping[str, Any], block: object, draft: Draft, findings: Findings
) -> None:
    """Report flat keys that contradict the `loss` block beside them."""
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(block, dict) or not isinstance(kind, str) or kind not in LOSSES:
        return  # the schema reports the block itself
    used = _used_parameters(given, kind, draft, findings)
    values = {**_defaults(kind), **block}
    different = {key: "type" for key, chosen in _firm_choices(given).items() if chosen != kind}
    different |= {
        key: row.parameter for key, row in used.items() if values[row.parameter] != given[key]
    }
    different |= dict.fromkeys(_denials(given, kind), "type")
    for key, name in different.items():
        place = findings.source.where(draft.written(("loss",)))
        findings.problem(
            draft.written((key,)),
            f"{key} contradicts {place}, where loss.{name} is {show(values[name])}; "
            f"keep either {key} or loss",
        )


@cache
def _defaults(kind: str) -> Mapping[str, Any]:
    defaults: Mapping[str, Any] = LOSSES[kind]().model_dump(mode="json")
    return defaults


def _aux_losses(
    values: Mapping[str, Any],
    weights: list[float] | None,
    draft: Draft,
    findings: Findings,
    moved: dict[JsonPath, JsonPath],
) -> dict[str, Any]:
    """Turn names in `aux_losses` into blocks, each with its weight from `aux_weights`."""
    entries = values.get("aux_losses", [])
    if not isinstance(entries, list):
        return {}  # the schema reports it
    if weights is not None and len(weights) != len(entries):
        findings.problem(
            draft.written(("aux_weights",)),
            f"expected one number for each loss in aux_losses, {len(entries)} in all, "
            f"not {len(weights)}",
        )
        weights = None
    blocks: list[Any] = []
    for index, entry in enumerate(entries):
        block = {"type": entry} if isinstance(entry, str) else entry
        if isinstance(entry, str):
            moved["aux_losses", index, "type"] = draft.written(("aux_losses", index))
        if weights is not None and isinstance(block, dict):
            place = draft.written(("aux_weights", index))
            own = block.get("weight", weights[index])
            if own != weights[index]:
                other = findings.source.where(draft.written(("aux_losses", index, "weight")))
                findings.problem(
                    place,
                    f"aux_weights contradicts aux_losses: {other} is {show(own)}; keep one of the "
                    "two",
                )
            block = {**block, "weight": own}
            moved["aux_losses", index, "weight"] = place
        blocks.append(block)
    return {"aux_losses": blocks} if "aux_losses" in values else {}


def _pretrain(
    values: Mapping[str, Any],
    kind: str,
    draft: Draft,
    findings: Findings,
    moved: dict[JsonPath, JsonPath],
) -> dict[str, Any]:
    """Put `loss_func` into the `pretrain` block, or create one."""
    place = draft.written(("loss_func",))

    def contradicts(path: JsonPath, value: str) -> dict[str, Any]:
        other = findings.source.where(draft.written(path))
        findings.problem(
            place,
            f"loss_func contradicts {other}, where {'.'.join(map(str, path))} is {value}; "
            "keep one of the two",
        )
        return {}

    block = values.get("pretrain", {})
    if block is None:
        return contradicts(("pretrain",), "null (no pre-training)")
    loss = block.get("loss", {}) if isinstance(block, dict) else None
    if not isinstance(loss, dict):
        return {}  # the schema reports it
    if loss.get("type", kind) != kind:
        return contradicts(("pretrain", "loss", "type"), show(loss["type"]))
    moved["pretrain", "loss", "type"] = place
    if "pretrain" not in values:
        moved["pretrain",] = place
    elif "loss" not in block:
        moved["pretrain", "loss"] = place
    return {"pretrain": {**block, "loss": {**loss, "type": kind}}}
