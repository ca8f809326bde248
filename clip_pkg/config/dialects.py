"""Flat keys that the training guides use in place of the nested `loss` block.

The only module that knows them: behind it every config has the canonical form. A dialect is a row
of `DIALECTS`: a class whose fields are its flat keys, checked as strictly as the config itself, and
three tables that say what they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clip_pkg.config.findings import Draft, Findings
from clip_pkg.config.jsonc import JsonPath, show
from clip_pkg.config.losses import LossConfig, MainLossConfig, NonNegative
from clip_pkg.config.problems import sentences


class Dialect(BaseModel):
    """Flat keys of one guide.

    selector: the key that chooses the loss.
    blocks: value of the selector → `loss` block that it starts.
    parameters: every other key → its place inside that block. A parameter of a loss that is not
        chosen is allowed and has no effect, so that one switch can be flipped without deleting it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    selector: ClassVar[str]
    blocks: ClassVar[Mapping[Any, Mapping[str, Any]]]
    parameters: ClassVar[Mapping[str, JsonPath]]


class SuperClipDialect(Dialect):
    """The switch and the two weights of the SuperCLIP training guide."""

    selector = "use_superclip_loss"
    blocks = {True: {"type": "superclip"}, False: {"type": "clip"}}
    parameters = {
        "class_loss_weight": ("class_loss_weight",),
        "contrastive_loss_weight": ("contrastive_loss_weight",),
    }

    use_superclip_loss: bool = Field(
        False, description="true: loss `superclip`; false: loss `clip`."
    )
    class_loss_weight: NonNegative = Field(
        1.0, description="Weight of the classification part of `superclip`."
    )
    contrastive_loss_weight: NonNegative = Field(
        1.0, description="Weight of the CLIP part of `superclip`."
    )


DIALECTS: tuple[type[Dialect], ...] = (SuperClipDialect,)


def to_canonical(draft: Draft, findings: Findings) -> Draft:
    """Replace the flat keys of a config by its `loss` block.

    Flat keys next to a `loss` block must say the same as it. Wrong values and contradictions become
    problems at the flat key; the flat keys are gone from the result in any case.
    """
    flat = {key for dialect in DIALECTS for key in dialect.model_fields}
    given = {key: value for key, value in draft.values.items() if key in flat}
    if not given:
        return draft
    rest = replace(draft, values={k: v for k, v in draft.values.items() if k not in flat})
    if not _values_are_valid(given, draft, findings):
        return rest
    if "loss" not in rest.values:
        return _translate(given, rest, draft, findings)
    _compare(given, draft, findings)
    return rest


def _values_are_valid(given: Mapping[str, Any], draft: Draft, findings: Findings) -> bool:
    valid = True
    for dialect in DIALECTS:
        try:
            dialect.model_validate({k: v for k, v in given.items() if k in dialect.model_fields})
        except ValidationError as error:
            valid = False
            for path, sentence in sentences(error, dialect, ()).items():
                findings.problem(draft.written(path), sentence)
    return valid


@dataclass(frozen=True)
class _Meaning:
    """What one flat key asks for: `value` at `path` of the loss block."""

    key: str
    path: JsonPath
    value: Any


def _choice(given: Mapping[str, Any]) -> list[_Meaning]:
    """List what the selectors among the given keys ask for."""
    return [
        _Meaning(dialect.selector, (name,), wanted)
        for dialect in DIALECTS
        if dialect.selector in given
        for name, wanted in dialect.blocks[given[dialect.selector]].items()
    ]


def _parameters(given: Mapping[str, Any], kind: str | None) -> list[_Meaning]:
    """List the given parameters that the loss `kind` has."""
    return [
        _Meaning(key, path, given[key])
        for dialect in DIALECTS
        for key, path in dialect.parameters.items()
        if key in given and _has_parameter(kind, path)
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
    parameters = _parameters(given, block.get("type"))
    for meaning in parameters:
        _put(block, meaning.path, meaning.value)
        moved["loss", *meaning.path] = draft.written((meaning.key,))
    _notice_unused(given, [*choice, *parameters], draft, findings)
    if not choice:
        return rest
    return replace(rest, values={**rest.values, "loss": block}, moved={**rest.moved, **moved})


def _compare(given: Mapping[str, Any], draft: Draft, findings: Findings) -> None:
    """Check flat keys against the `loss` block that stands beside them."""
    block = draft.values["loss"]
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str) or kind not in loss_classes():
        return  # the block itself is wrong, and reported as such
    meanings = [*_choice(given), *_parameters(given, kind)]
    for meaning in meanings:
        actual = _get(block, meaning.path, kind)
        if actual != meaning.value:
            there = ".".join(str(step) for step in ("loss", *meaning.path))
            place = findings.source.where(draft.written(("loss",)))
            findings.problem(
                draft.written((meaning.key,)),
                f"{meaning.key} contradicts {place}, where {there} is {show(actual)}; "
                f"keep either {meaning.key} or loss",
            )
    _notice_unused(given, meanings, draft, findings)


def _notice_unused(
    given: Mapping[str, Any], used: list[_Meaning], draft: Draft, findings: Findings
) -> None:
    used_keys = {meaning.key for meaning in used}
    for dialect in DIALECTS:
        for key, path in dialect.parameters.items():
            if key in given and key not in used_keys:
                users = [
                    show(value)
                    for value, block in dialect.blocks.items()
                    if _has_parameter(block["type"], path)
                ]
                findings.notice(
                    draft.written((key,)),
                    f"has no effect here; it is used where {dialect.selector} is "
                    f"{' or '.join(users)}",
                )


@cache
def loss_classes() -> Mapping[str, type[LossConfig]]:
    """Loss blocks by their `type`."""
    union = get_args(MainLossConfig)[0]
    return {member.model_fields["type"].default: member for member in get_args(union)}


def _has_parameter(kind: str | None, path: JsonPath) -> bool:
    return kind is not None and path[0] in loss_classes()[kind].model_fields


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
    return loss_classes()[kind]().model_dump(mode="json")
