"""Turns the flat keys of the guides' dialects into the canonical blocks of losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pydantic import ValidationError

from clip_pkg.config import dialects
from clip_pkg.config.aux_dialect import aux_to_canonical
from clip_pkg.config.findings import Draft, Findings
from clip_pkg.config.jsonc import JsonPath, show
from clip_pkg.config.losses import loss_classes
from clip_pkg.config.pretrain_dialect import pretrain_to_canonical
from clip_pkg.config.problems import sentences


def to_canonical(draft: Draft, findings: Findings) -> Draft:
    """Replace the flat keys by the blocks `loss` and `pretrain` and the list of `aux_losses`.

    Flat keys next to a `loss` block must say the same as it. Wrong values and contradictions become
    problems at the flat key; the flat keys are gone from the result in any case.
    """
    draft = pretrain_to_canonical(aux_to_canonical(draft, findings), findings)
    flat = {key for dialect in dialects.DIALECTS for key in dialect.model_fields}
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
    for dialect in dialects.DIALECTS:
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
    used = [dialect for dialect in dialects.DIALECTS if dialect.selector in given]
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
        for dialect in dialects.DIALECTS
        if given.get(dialect.selector) is False and dialect.blocks[True]["type"] == kind
    ]


def _parameters(given: Mapping[str, Any], kind: str | None) -> list[_Meaning]:
    """List the given parameters that the loss `kind` has."""
    return [
        _Meaning(key, path, given[key])
        for dialect in dialects.DIALECTS
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
    for dialect in dialects.DIALECTS:
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
