"""Older spellings of config keys, translated to the canonical form.

Nothing outside this module sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from clip_pkg.config.diagnostics import Draft, Findings, sentences
from clip_pkg.config.jsonc import JsonPath, show
from clip_pkg.config.loss_blocks import NonNegative, Positive, Temperature
from clip_pkg.config.losses import loss_classes
from clip_pkg.config.pretraining import pretrain_loss_classes

if TYPE_CHECKING:
    LossKind: TypeAlias = str
else:
    LossKind = Literal[tuple(loss_classes())]

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

    main_loss_type: LossKind = Field(
        UNSET, description="The loss, with the settings it has by itself."
    )
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


class AuxWeights(BaseModel):
    """The flat key besides `aux_losses` itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    aux_weights: list[NonNegative] = Field(
        [], description="Weights of the losses in `aux_losses`, in the same order."
    )


def aux_to_canonical(draft: Draft, findings: Findings) -> Draft:
    """Turn names into blocks and hand each its weight; `aux_weights` is gone from the result.

    A wrong number of weights, and a weight that contradicts a block's own, become problems.
    """
    weights = draft.values.get("aux_weights")
    values = {key: value for key, value in draft.values.items() if key != "aux_weights"}
    entries = values.get("aux_losses", [])
    if not isinstance(entries, list):
        return replace(draft, values=values)  # reported by the schema
    moved: dict[JsonPath, JsonPath] = {}
    blocks: list[Any] = []
    for index, entry in enumerate(entries):
        blocks.append({"type": entry} if isinstance(entry, str) else entry)
        if isinstance(entry, str):
            moved["aux_losses", index, "type"] = draft.written(("aux_losses", index))
    if "aux_weights" in draft.values and _are_valid(weights, len(entries), draft, findings):
        for index, (block, weight) in enumerate(zip(blocks, weights or [], strict=True)):
            if isinstance(block, dict):
                blocks[index] = _weighed(block, weight, index, draft, findings)
                moved["aux_losses", index, "weight"] = draft.written(("aux_weights", index))
    if "aux_losses" in values:
        values["aux_losses"] = blocks
    return replace(draft, values=values, moved={**draft.moved, **moved})


def _are_valid(weights: object, count: int, draft: Draft, findings: Findings) -> bool:
    try:
        checked = AuxWeights.model_validate({"aux_weights": weights})
    except ValidationError as error:
        for path, sentence in sentences(error, AuxWeights, ()).items():
            findings.problem(draft.written(path), sentence)
        return False
    if len(checked.aux_weights) != count:
        findings.problem(
            draft.written(("aux_weights",)),
            f"expected one number for each loss in aux_losses, {count} in all, "
            f"not {len(checked.aux_weights)}",
        )
        return False
    return True


def _weighed(
    block: Mapping[str, Any], weight: float, index: int, draft: Draft, findings: Findings
) -> dict[str, Any]:
    own = block.get("weight", weight)
    if own != weight:
        place = findings.source.where(draft.written(("aux_losses", index, "weight")))
        findings.problem(
            draft.written(("aux_weights", index)),
            f"aux_weights contradicts aux_losses: {place} is {show(own)}; keep one of the two",
        )
    return {**block, "weight": own}


if TYPE_CHECKING:
    PretrainKind: TypeAlias = str
else:
    PretrainKind = Literal[tuple(pretrain_loss_classes())]


class PretrainLoss(BaseModel):
    """The one flat key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    loss_func: PretrainKind = Field(
        UNSET, description="`pretrain.loss.type`; without a `pretrain` block it makes one."
    )


def pretrain_to_canonical(draft: Draft, findings: Findings) -> Draft:
    """Put `loss_func` into the `pretrain` block, or make one; it is gone from the result.

    A wrong value, and one that contradicts the block, become problems at `loss_func`.
    """
    if "loss_func" not in draft.values:
        return draft
    values = {key: value for key, value in draft.values.items() if key != "loss_func"}
    rest = replace(draft, values=values)
    try:
        wanted = PretrainLoss.model_validate({"loss_func": draft.values["loss_func"]}).loss_func
    except ValidationError as error:
        for path, sentence in sentences(error, PretrainLoss, ()).items():
            findings.problem(draft.written(path), sentence)
        return rest
    block = values.get("pretrain", {})
    if block is None:
        _contradicts(draft, findings, "pretrain", "null, which asks for no pre-training")
        return rest
    loss = block.get("loss", {}) if isinstance(block, dict) else None
    if not isinstance(loss, dict):
        return rest  # reported by the schema
    kind = loss.get("type", wanted)
    if kind != wanted:
        _contradicts(draft, findings, "pretrain.loss.type", show(kind))
        return rest
    values["pretrain"] = {**block, "loss": {**loss, "type": wanted}}
    place = draft.written(("loss_func",))
    moved: dict[JsonPath, JsonPath] = {("pretrain", "loss", "type"): place}
    if "pretrain" not in draft.values:
        moved["pretrain",] = place
    elif "loss" not in block:
        moved["pretrain", "loss"] = place
    return replace(draft, values=values, moved={**draft.moved, **moved})


def _contradicts(draft: Draft, findings: Findings, there: str, value: str) -> None:
    place = findings.source.where(draft.written(tuple(there.split("."))))
    findings.problem(
        draft.written(("loss_func",)),
        f"loss_func contradicts {place}, where {there} is {value}; keep one of the two",
    )


def to_canonical(draft: Draft, findings: Findings) -> Draft:
    """Replace the flat keys by the blocks `loss` and `pretrain` and the list of `aux_losses`.

    Flat keys next to a `loss` block must say the same as it. Wrong values and contradictions become
    problems at the flat key; the flat keys are gone from the result in any case.
    """
    draft = pretrain_to_canonical(aux_to_canonical(draft, findings), findings)
    flat = {key for dialect in DIALECTS for key in dialect.model_fields}
    written = {key: value for key, value in draft.values.items() if key in flat}
    if not written:
        return draft
    rest = replace(draft, values={k: v for k, v in draft.values.items() if k not in flat})
    given = _valid(written, draft, findings)
    if given is None:
        return rest
    if "loss" not in rest.values:
        return _translate(given, rest, draft, findings)
    _compare(given, draft, findings)
    return rest


def _valid(
    written: Mapping[str, Any], draft: Draft, findings: Findings
) -> Mapping[str, Any] | None:
    """Flat keys in the spelling of their dialect, or None where any has a wrong value."""
    given: dict[str, Any] = {}
    valid = True
    for dialect in DIALECTS:
        own = {key: value for key, value in written.items() if key in dialect.model_fields}
        try:
            checked = dialect.model_validate(own)
        except ValidationError as error:
            valid = False
            for path, sentence in sentences(error, dialect, ()).items():
                findings.problem(draft.written(path), sentence)
        else:
            given |= {key: getattr(checked, key) for key in own}
    return given if valid else None


@dataclass(frozen=True)
class _Meaning:
    """What one flat key asks for: `value` at `path` of the loss block."""

    key: str
    path: JsonPath
    value: Any


def _choice(given: Mapping[str, Any]) -> list[_Meaning]:
    """List what the selectors among the given keys ask for.

    A switch that is false asks for something only where no other selector does.
    """
    used = [dialect for dialect in DIALECTS if dialect.selector in given]
    firm = [dialect for dialect in used if given[dialect.selector] is not False]
    return [
        _Meaning(dialect.selector, (name,), wanted)
        for dialect in firm or used
        for name, wanted in dialect.blocks[given[dialect.selector]].items()
    ]


def _denials(given: Mapping[str, Any], kind: str | None) -> list[str]:
    """List the switches that are false although the loss is the one they switch on."""
    return [
        dialect.selector
        for dialect in DIALECTS
        if given.get(dialect.selector) is False and dialect.blocks[True]["type"] == kind
    ]


def _parameters(given: Mapping[str, Any], kind: str | None) -> list[_Meaning]:
    """List the given parameters that the loss `kind` has."""
    return [
        _Meaning(key, path, given[key])
        for dialect in DIALECTS
        for key, path in dialect.parameters.items()
        if key in given and kind is not None and dialect.has_parameter(key, kind)
    ]


def _translate(given: Mapping[str, Any], rest: Draft, draft: Draft, findings: Findings) -> Draft:
    """Build the loss block from flat keys alone."""
    block: dict[str, Any] = {}
    moved: dict[JsonPath, JsonPath] = {}
    choice = _choice(given)
    for meaning in choice:
        name = str(meaning.path[0])
        place = draft.written((meaning.key,))
        if block.setdefault(name, meaning.value) != meaning.value:
            other = findings.source.where(moved["loss", name])
            findings.problem(place, f"asks for another loss than {other}; keep one of the two")
        moved.setdefault(("loss", name), place)
        moved.setdefault(("loss",), place)
    for selector in _denials(given, block.get("type")):
        other = findings.source.where(moved["loss", "type"])
        findings.problem(
            draft.written((selector,)),
            f"is false, but {other} asks for that very loss; keep one of the two",
        )
    parameters = _parameters(given, block.get("type"))
    for meaning in parameters:
        _put(block, meaning.path, meaning.value)
        moved["loss", *meaning.path] = draft.written((meaning.key,))
    _notice_unused(given, parameters, draft, findings)
    if not choice:
        return rest
    return replace(rest, values={**rest.values, "loss": block}, moved={**rest.moved, **moved})


def _compare(given: Mapping[str, Any], draft: Draft, findings: Findings) -> None:
    """Check flat keys against the `loss` block that stands beside them."""
    block = draft.values["loss"]
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str) or kind not in loss_classes():
        return  # the block itself is wrong, and reported as such
    parameters = _parameters(given, kind)
    firm = [meaning for meaning in _choice(given) if given[meaning.key] is not False]
    contradicting = [
        (meaning.key, meaning.path, actual)
        for meaning in [*firm, *parameters]
        if (actual := _get(block, meaning.path, kind)) != meaning.value
    ]
    contradicting += [(selector, ("type",), kind) for selector in _denials(given, kind)]
    for key, path, actual in contradicting:
        there = ".".join(str(step) for step in ("loss", *path))
        place = findings.source.where(draft.written(("loss",)))
        findings.problem(
            draft.written((key,)),
            f"{key} contradicts {place}, where {there} is {show(actual)}; "
            f"keep either {key} or loss",
        )
    _notice_unused(given, parameters, draft, findings)


def _notice_unused(
    given: Mapping[str, Any], used: list[_Meaning], draft: Draft, findings: Findings
) -> None:
    used_keys = {meaning.key for meaning in used}
    for dialect in DIALECTS:
        for key in dialect.parameters:
            if key in given and key not in used_keys:
                users = [
                    show(value)
                    for value, block in dialect.blocks.items()
                    if dialect.has_parameter(key, block["type"])
                ]
                findings.notice(
                    draft.written((key,)),
                    f"has no effect here; it is used where {dialect.selector} is "
                    f"{' or '.join(users)}",
                )


def _put(block: dict[str, Any], path: JsonPath, value: Any) -> None:
    for step in path[:-1]:
        block = block.setdefault(str(step), {})
    block[str(path[-1])] = value


def _get(block: Mapping[str, Any], path: JsonPath, kind: str) -> Any:
    """Value at `path` of a loss block as the user sees it: what is left out has its default."""
    whole: Any = {**_defaults(kind), **block}
    for step in path:
        whole = whole.get(step) if isinstance(whole, dict) else None
    return whole


@cache
def _defaults(kind: str) -> Mapping[str, Any]:
    return loss_classes()[kind]().model_dump(mode="json")  # type: ignore[call-arg]
